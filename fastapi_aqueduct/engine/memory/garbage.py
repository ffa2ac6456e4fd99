"""Collects the cycles of an application that hold shared memory, before anybody is refused for want of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

FIRST_WAIT = 2.0
"""Seconds before the next collection when one has freed nothing."""

LONGEST_WAIT = 60.0
"""Seconds that no such wait exceeds."""


class GarbageCollection:
    """Collects garbage on demand, and more and more rarely while that frees no block.

    A collection looks at every object of the process and stops the event loop meanwhile: for 25 ms in a FastAPI
    application that has loaded nothing else, for 150 ms when there are a million objects.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wait = 0.0
        self._due = clock()

    def run(self, count_blocks: Callable[[], int]) -> bool:
        """Collect garbage, unless the last collection was useless and is not long enough ago.

        Args:
            count_blocks: Counts the blocks that are held, after each has been looked at.

        Returns:
            Whether fewer blocks are held than before.
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
