"""Settings of the server's process that make room for requests in flight."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable

GC_THRESHOLD = 20_000
"""New objects after which Python looks for garbage while an application runs. Its own 700 are seven requests in
flight: each burst of requests is looked through and grows old by that, until a full collection holds everybody up."""

KEPT = 16 << 20
"""Bytes of freed memory at the end of the heap that stay with the process."""

_LARGE = 1 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def relax_collector() -> Callable[[], None]:
    """Raise the threshold of the garbage collector, unless it is higher or the collector is switched off.

    Returns:
        What puts it back.
    """
    found = gc.get_threshold()
    if 0 < found[0] < GC_THRESHOLD:
        gc.set_threshold(GC_THRESHOLD, *found[1:])
    return lambda: gc.set_threshold(*found)


def keep_freed_memory() -> bool:
    """Have the C library keep what the pieces of a body have used for the next pieces; it cannot be taken back.

    A server reads bodies in pieces of up to 256 KiB. glibc gives such a piece back to the system as soon as it is
    freed, and takes the next one with all its pages from there: that costs as much as everything else that is done
    with an upload. Other allocators keep it by themselves (mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD).

    Returns:
        Whether it was done: not without glibc, nor where the environment has settings of its own for it.
    """
    if any(name in os.environ for name in _OWN_SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_TRIM_THRESHOLD, KEPT) and mallopt(_M_MMAP_THRESHOLD, _LARGE))
