"""The statistics of the last seconds, for rates."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...flow import FlowStatistics

WINDOW = 30.0
"""Seconds over which rates and percentiles are shown."""

SHORTEST = 0.5
"""Seconds below which a rate would mean nothing."""


class Sample(NamedTuple):
    """The statistics of all flows at one time.

    Attributes:
        at: The time, on the clock of the history.
        flows: Those of each flow, by its name.
    """

    at: float
    flows: Mapping[str, FlowStatistics]


class History:
    """Keeps the samples of a window.

    Args:
        now: The clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._samples: deque[Sample] = deque()

    def add(self, flows: Mapping[str, FlowStatistics]) -> tuple[float, Mapping[str, FlowStatistics]]:
        """Add a sample.

        Args:
            flows: The statistics of each flow, by its name.

        Returns:
            The length of the window in seconds, and the statistics at its beginning; 0 and none while it is too short.
        """
        now = self._now()
        while self._samples and now - self._samples[0].at > WINDOW:
            self._samples.popleft()
        oldest = self._samples[0] if self._samples else None
        if not self._samples or now - self._samples[-1].at >= SHORTEST:  # several pages may ask one after the other
            self._samples.append(Sample(now, flows))
        if oldest is None or now - oldest.at < SHORTEST:
            return 0.0, {}
        return now - oldest.at, oldest.flows


def rate(now: float, before: float, seconds: float) -> float | None:
    """Return how fast a counter has grown; None while that is not known, or if it has begun anew.

    Args:
        now: The counter now.
        before: The counter at the beginning of the window.
        seconds: The length of the window.
    """
    return (now - before) / seconds if seconds and now >= before else None
