"""Settings of the server's process. Each change is logged, and can be switched off with an argument of `Aqueduct`."""

from __future__ import annotations

import gc

from ..engine.system.malloc import keep_freed_memory
from ..logger import log

GC_THRESHOLD = 20_000
"""New objects after which Python collects garbage while an application runs. Python's own 700 are reached with seven
requests in flight: the objects of each burst are scanned and become old, until a full collection delays every
request."""

KEPT = 16 << 20
"""Bytes of freed memory at the end of the heap that the process keeps."""

LARGE = 1 << 20
"""Bytes from which an allocation is not part of the heap: a body arrives in pieces of up to 256 KiB."""


class ProcessSettings:
    """Changes settings of the server's process while flows run.

    Args:
        adjust_malloc: Whether the C library keeps the memory of the pieces of a body for the next pieces. This lasts
            until the process ends: glibc does not return its previous settings.
        adjust_gc: Whether the threshold of the garbage collector is raised.
    """

    def __init__(self, adjust_malloc: bool, adjust_gc: bool) -> None:
        self._adjust_malloc = adjust_malloc
        self._adjust_gc = adjust_gc
        self._found: tuple[int, int, int] | None = None

    def apply(self) -> None:
        """Change the settings, and log one line for each change."""
        if self._adjust_malloc and keep_freed_memory(KEPT, LARGE):
            log.info(
                "glibc keeps up to %d MiB of freed memory in this process for uploads; "
                "Aqueduct(adjust_malloc=False) switches this off",
                KEPT >> 20,
            )
        found = gc.get_threshold()
        # The application may have switched the collector off, or set a higher threshold.
        if self._adjust_gc and 0 < found[0] < GC_THRESHOLD:
            gc.set_threshold(GC_THRESHOLD, *found[1:])
            self._found = found
            log.info("the garbage collector runs after %d new objects instead of %d", GC_THRESHOLD, found[0])

    def restore(self) -> None:
        """Restore the threshold of the garbage collector, unless it was changed since."""
        found, self._found = self._found, None
        if found is not None and gc.get_threshold() == (GC_THRESHOLD, *found[1:]):
            gc.set_threshold(*found)
