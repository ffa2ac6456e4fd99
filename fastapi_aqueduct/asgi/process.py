"""Settings of the server's process: what is changed in it is logged, and switched by `Aqueduct`."""

from __future__ import annotations

import gc

from ..engine.system.malloc import keep_freed_memory
from ..logger import log

GC_THRESHOLD = 20_000
"""New objects after which Python looks for garbage while an application runs. Its own 700 are seven requests in
flight: each burst of requests is looked through and grows old by that, until a full collection holds everybody up."""

KEPT = 16 << 20
"""Bytes of freed memory at the end of the heap that stay with the process."""

LARGE = 1 << 20
"""Bytes of a piece that is no part of that: a body comes in pieces of up to 256 KiB."""


class ProcessSettings:
    """What is changed in the server's process while flows run.

    Args:
        adjust_malloc: Whether the C library keeps what the pieces of a body have used for the next pieces. This stays
            until the process ends: glibc does not tell what the settings were.
        adjust_gc: Whether the threshold of the garbage collector is raised.
    """

    def __init__(self, adjust_malloc: bool, adjust_gc: bool) -> None:
        self._adjust_malloc = adjust_malloc
        self._adjust_gc = adjust_gc
        self._found: tuple[int, int, int] | None = None

    def apply(self) -> None:
        """Change the process, and say so in one line for each change."""
        if self._adjust_malloc and keep_freed_memory(KEPT, LARGE):
            log.info(
                "glibc keeps up to %d MiB of freed memory in this process for uploads; "
                "Aqueduct(adjust_malloc=False) leaves it as it is",
                KEPT >> 20,
            )
        found = gc.get_threshold()
        # A collector that is off, or has a higher threshold, was set so by the application.
        if self._adjust_gc and 0 < found[0] < GC_THRESHOLD:
            gc.set_threshold(GC_THRESHOLD, *found[1:])
            self._found = found
            log.info("the garbage collector looks after %d new objects instead of %d", GC_THRESHOLD, found[0])

    def restore(self) -> None:
        """Put the threshold of the garbage collector back, unless it has been changed since."""
        found, self._found = self._found, None
        if found is not None and gc.get_threshold() == (GC_THRESHOLD, *found[1:]):
            gc.set_threshold(*found)
