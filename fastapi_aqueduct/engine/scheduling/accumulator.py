"""A histogram that is being filled."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from ..statistics import Histogram

BLOCK = 1024
"""The most values that are counted together, which takes 0.1 ms."""


class Accumulator:
    """Collects values for a histogram.

    They are counted in blocks: to sort a block and look up the few bounds that lie in it costs a third of a search for
    each value. One thread adds values; any thread may ask for the histogram.

    Args:
        bounds: Upper bounds of its ranges, ascending.

    Attributes:
        values: Values that are not counted yet. Code that runs for each task appends to it, and calls `count` now and
            then; other code calls `add`.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.values: list[float] = []
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Add a value."""
        self.values.append(value)
        if len(self.values) >= BLOCK:
            self.count()

    def count(self) -> None:
        """Count the values, unless another thread does."""
        if self._lock.acquire(blocking=False):  # an event loop must not wait
            try:
                self._count()
            finally:
                self._lock.release()

    def histogram(self) -> Histogram:
        """Return a snapshot; the values so far are all in it."""
        with self._lock:
            self._count()
            return Histogram(self._bounds, tuple(self._counts), self._sum)

    def _count(self) -> None:
        # Each of the two lines is atomic, and a value that is added between them comes after those that are removed.
        values = self.values[:]
        del self.values[: len(values)]
        if not values:
            return
        values.sort()
        bounds, counts = self._bounds, self._counts
        first, last = bisect_left(bounds, values[0]), bisect_left(bounds, values[-1])
        start = 0
        for index in range(first, last):
            end = bisect_right(values, bounds[index], start)
            counts[index] += end - start
            start = end
        counts[last] += len(values) - start
        # A difference of times of two processes may be negative by a rounding error, but a sum must not decrease.
        self._sum += sum(values) if values[0] >= 0.0 else sum(values[bisect_right(values, 0.0) :])
