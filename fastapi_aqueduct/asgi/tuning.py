"""Settings of the server's process that make room for requests in flight."""

from __future__ import annotations

import gc
from collections.abc import Callable

from ..engine.heap import keep_freed_memory

GC_THRESHOLD = 20_000
"""New objects after which Python looks for garbage while an application runs. Its own 700 are seven requests in
flight: each burst of requests is looked through and grows old by that, until a full collection holds everybody up."""

KEPT = 16 << 20
"""Bytes of freed memory at the end of the heap that stay with the process."""

LARGE = 1 << 20
"""Bytes of a piece that is no part of that: a body comes in pieces of up to 256 KiB."""


def relax_collector() -> Callable[[], None]:
    """Raise the threshold of the garbage collector, unless it is higher or the collector is switched off.

    Returns:
        What puts it back.
    """
    found = gc.get_threshold()
    if 0 < found[0] < GC_THRESHOLD:
        gc.set_threshold(GC_THRESHOLD, *found[1:])
    return lambda: gc.set_threshold(*found)


def keep_pieces() -> bool:
    """Have the C library keep what the pieces of a body have used for the next pieces; it cannot be taken back.

    Returns:
        Whether it was done; see `heap.keep_freed_memory`.
    """
    return keep_freed_memory(KEPT, LARGE)
