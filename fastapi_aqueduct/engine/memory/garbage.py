"""Garbage collection on demand: reference cycles of the application may keep views of shared memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

FIRST_WAIT = 2.0
"""Seconds until the next collection after the first one that freed nothing."""

LONGEST_WAIT = 60.0
"""The upper limit of that wait, which doubles."""


class GarbageCollection:
    """Collects garbage on demand, and increasingly rarely while that frees no block.

    A collection visits every object of the process and blocks the event loop meanwhile: for 25 ms in a FastAPI
    application that has loaded nothing else, for 150 ms with a million objects.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wait = 0.0
        self._due = clock()

    def run(self, count_blocks: Callable[[], int]) -> bool:
        """Collect garbage, unless the last collection was useless and too recent.

        Args:
            count_blocks: Returns the number of blocks with views.

        Returns:
            Whether it is lower than before.
        """
        if self._clock() < self._due:
            return False
        before = count_blocks()
        gc.collect()
        if count_blocks() < before:
            self._wait = 0.0
            return True
        self._wait = min(max(FIRST_WAIT, 2 * self._wait), LONGEST_WAIT)
        self._due = self._clock() + self._wait
        return False
