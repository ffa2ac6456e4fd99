"""The heap of the C library: how much freed memory it keeps for reuse."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_DEFAULT = 128 << 10
_LARGEST_OF_OLD_GLIBC = 32 << 20
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory(kept: int, large: int) -> bool:
    """Make the C library keep freed memory instead of returning it to the system. This cannot be undone.

    By default glibc returns large pieces as soon as they are freed and gets the next ones from the system, with a page
    fault for each page, which the kernel then clears: for buffers that come and go all the time this costs as much as
    filling them. Other allocators keep freed memory by default (mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD).

    Args:
        kept: Bytes at the end of the heap that stay.
        large: Bytes from which on a piece is mapped by itself and returned when it is freed; before glibc 2.35 at most
            32 MiB.

    Returns:
        Whether it was done: not without glibc, nor where the environment has settings of its own for it, nor for less
        than glibc keeps by default.
    """
    if min(kept, large) < _DEFAULT or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not mallopt(_M_TRIM_THRESHOLD, kept):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, large) or mallopt(_M_MMAP_THRESHOLD, min(large, _LARGEST_OF_OLD_GLIBC)))


def trims_by_itself() -> bool:
    """Tell whether the C library returns freed memory at the end of the heap when that exceeds its threshold.

    Measured: glibc 2.36 does, and glibc 2.43 keeps all of it until it is asked (`trim_heap`).
    """
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (ValueError, OSError):  # another library
        return True
    return name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 43)


def trim_heap() -> None:
    """Return freed memory to the system now (malloc_trim(3)); nothing happens without glibc."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))
