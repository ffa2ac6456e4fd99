"""How many tasks of the same failure are recorded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable

WINDOW = 60.0
"""Seconds in which the number of records is limited."""

_MOST_KINDS = 1000
"""Kinds of which the times are kept: names of exceptions may be made at run time."""


class Budget:
    """Limits how many tasks of each kind are recorded in a `WINDOW`, so that a storm of failures writes few files.

    Args:
        clock: The clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: dict[Hashable, deque[float]] = {}

    def spend(self, kind: Hashable, limit: int) -> bool:
        """Count a task.

        Args:
            kind: What it has in common with others.
            limit: The most tasks of a kind in a window.

        Returns:
            Whether it may be recorded; one that may not does not count.
        """
        now = self._clock()
        times = self._times.pop(kind, None) or deque()
        self._times[kind] = times  # the kinds are in the order of their last failure
        if len(self._times) > _MOST_KINDS:
            del self._times[next(iter(self._times))]
        while times and now - times[0] >= WINDOW:
            times.popleft()
        if len(times) >= limit:
            return False
        times.append(now)
        return True
