"""The result of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Prediction:
    """The result of a simulation.

    Attributes:
        rate: Answers per second.
        mean: The mean of the seconds from the beginning of a request to its end.
        times: The seconds of each request, in ascending order.
        busy: The share of the time that the processes of each station computed, by its name.
    """

    rate: float
    mean: float
    times: Sequence[float]
    busy: dict[str, float]

    def percentile(self, percent: float) -> float:
        """Return the time within which this share of the requests was answered, in seconds.

        Args:
            percent: From 0 to 100.
        """
        return percentile(self.times, percent)


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Return the smallest value that this share of the values does not exceed.

    Args:
        ascending: The values, in ascending order.
        percent: From 0 to 100.
    """
    return ascending[max(0, ceil(len(ascending) * percent / 100) - 1)]
