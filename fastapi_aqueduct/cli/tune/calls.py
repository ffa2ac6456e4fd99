"""Single calls of a handler: the time they took, and the time they would take on an idle machine."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import median, quantiles
from typing import NamedTuple

from .costs import Point

LEAST_CALLS = 4
"""Minimum number of measured calls, if there is time."""

STEADY = 0.03
"""Relative error of the median at which no further call is needed."""

DISTURBED = 0.1
"""Share of a call spent waiting for a core, above which other calls are preferred."""


class CallFailed(Exception):
    """A call of a handler has failed: with this many tasks it cannot be measured."""


class Call(NamedTuple):
    """One call of a handler, as it was observed.

    Attributes:
        handle_time: Seconds of the handler.
        around: Seconds outside the handler until the answer arrived: the worker decodes, encodes and sleeps.
        cpu: Processor time of the worker; None if it is not known.
        waited: Seconds for which the worker waited for a core, in the handler or around it.
    """

    handle_time: float
    around: float
    cpu: float | None
    waited: float = 0.0

    @property
    def is_undisturbed(self) -> bool:
        """Whether the worker had a core nearly whenever it wanted one."""
        return self.waited <= DISTURBED * self.handle_time

    def seconds(self, threads: int) -> float:
        """Return the time of the call on an idle machine, in seconds.

        Args:
            threads: Threads of the worker.
        """
        quick = self.handle_time - self.waited
        if self.cpu is None:
            return max(0.0, quick)
        least = self.cpu / threads
        # A handler that computes has used the time in which it did not wait. Another one hardly needs a core, so the
        # wait was around it.
        computes = least / 2 <= quick <= 1.5 * self.cpu
        handled = quick if computes or self.is_undisturbed else self.handle_time - max(0.0, self.waited - self.around)
        return max(handled + min(max(0.0, self.cpu - handled), self.around), least)


def point_of(calls: Sequence[Call], size: int, threads: int, memory: int) -> Point:
    """Summarise calls of one size.

    Args:
        calls: The calls.
        size: Tasks of each.
        threads: Threads of the worker.
        memory: Bytes of its private memory.
    """
    undisturbed = [call for call in calls if call.is_undisturbed]
    counted = undisturbed if len(undisturbed) > 1 else calls
    times = [call.seconds(threads) for call in counted]
    cpu = median(call.seconds(threads) if call.cpu is None else call.cpu for call in counted)
    return Point(size, median(times), cpu, spread_of(times), len(calls), memory)


def are_steady(calls: Sequence[Call], threads: int) -> bool:
    """Return whether further calls would hardly change the median of their seconds.

    Args:
        calls: The calls.
        threads: Threads of the worker.
    """
    times = [call.seconds(threads) for call in calls]
    return len(calls) >= LEAST_CALLS and spread_of(times) / sqrt(len(times)) < STEADY


def spread_of(times: Sequence[float]) -> float:
    """Return the interquartile range of times as a part of their median."""
    if len(times) < 4:
        return (max(times) - min(times)) / (median(times) or 1.0)
    low, middle, high = quantiles(times, n=4)
    return (high - low) / (middle or 1.0)
