"""How many workers a step should have. Without a clock: times are arguments.

Up at once, down only after a time in which fewer would have been enough all along: the "stabilization window" of
Kubernetes' Horizontal Pod Autoscaler. How many would be enough follows from the calls that are present, so that the
answer does not depend on how many workers there are now; a number that has just been left is not wanted again at once.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from ...autoscale import Autoscale

BUSY_SHARE = 0.8
"""Of their time that workers may be busy on average; with more, queues of random arrivals become long."""

AVERAGING = 0.1
"""Part of ``idle_after`` over which it is averaged how many workers are busy."""


class Demand(NamedTuple):
    """The work of a step at one moment. Calls are counted in workers: of calls side by side each takes a part of one.

    Attributes:
        busy: Calls that workers have in hand.
        waiting: Calls that wait for a worker.
        waited: Seconds that the oldest of them has waited.
        pace: Seconds that a call takes.
        has_worked: Whether there was any work since the last moment.
        ready: Workers that are ready.
        coming: Workers that are being launched, or will be.
        load_time: Seconds from the launch of a worker until it is ready.
    """

    busy: float
    waiting: float
    waited: float
    pace: float
    has_worked: bool
    ready: int
    coming: int
    load_time: float

    @property
    def wait(self) -> float:
        """Seconds that the last waiting call should wait for a worker; 0 while one is free."""
        if not self.waiting or self.busy < self.ready:
            return 0.0
        return max(self.waited, self.pace * self.waiting / max(1, self.ready))

    def workers_for(self, wait: float) -> int:
        """Return the fewest workers with which the last of the present calls should wait no longer than ``wait``.

        With n workers the last of c calls of p seconds begins after p (c - n) / n.
        """
        calls = self.busy + self.waiting
        return math.ceil(calls * self.pace / (self.pace + wait)) if self.pace + wait else math.ceil(calls)


class ScalingPolicy:
    """Decides how many workers a step should have; one for each elastic step.

    Up: while tasks wait longer than ``up_wait``, one more than are ready, or as many as work off what waits in the time
    that a worker takes to load. So a queue of ten seconds has one worker added that loads for a minute, and not ten.

    Down: to the most that were needed at any moment of the last ``idle_after`` seconds, when nothing waits and no
    worker is on its way. Needed are as many as keep the wait within ``up_wait`` and are busy for at most `BUSY_SHARE`
    of their time, but no more than there are calls.

    Args:
        autoscale: The declaration.
        now: The time in seconds on a monotonic clock.

    Attributes:
        autoscale: As given.
        wanted: The number of workers wanted now.
    """

    def __init__(self, autoscale: Autoscale, now: float) -> None:
        self.autoscale = autoscale
        self.wanted = autoscale.start
        self._level = 0.0  # of the busy workers, on average
        self._seen_at = now
        self._needed = deque([(now, self.wanted)])  # falling numbers: of earlier ones only those that were higher

    def observe(self, demand: Demand, now: float) -> int:
        """Return how many workers are wanted.

        Args:
            demand: The present work.
            now: The time in seconds.
        """
        self._average(demand.busy, now)
        self._note(self._need(demand), now)
        # A worker on its way counts from when it is ready: what it loads for is not over before.
        most = max(self.wanted, self._needed[0][1])
        self.wanted = most if demand.waiting or demand.coming else self._needed[0][1]
        if demand.coming:
            self._note(self.wanted, now)
        return self.wanted

    def keep(self, wanted: int, now: float) -> int:
        """Want at least a number of workers, from now for at least ``idle_after``: a task wakes the step.

        Args:
            wanted: The number.
            now: The time in seconds.
        """
        return self.set(max(self.wanted, wanted), now)

    def set(self, wanted: int, now: float) -> int:
        """Want a number of workers, from now for at least ``idle_after`` unless work needs more: it was set by hand.

        Args:
            wanted: The number.
            now: The time in seconds.
        """
        self.wanted = self._clamp(wanted)
        self._needed.clear()
        self._note(self.wanted, now)
        return self.wanted

    def _need(self, demand: Demand) -> int:
        autoscale = self.autoscale
        need = max(autoscale.minimum, demand.waiting > 0)
        if demand.has_worked:
            # One call that takes all the time of a worker needs no second worker.
            calls = math.ceil(demand.busy + demand.waiting)
            enough = max(demand.workers_for(autoscale.up_wait), min(calls, math.ceil(self._level / BUSY_SHARE)))
            need = max(need, min(self.wanted, max(1, enough)))  # past work has none added
        if demand.wait > autoscale.up_wait:
            need = max(need, demand.ready + 1, demand.workers_for(max(autoscale.up_wait, demand.load_time)))
        return self._clamp(need)

    def _average(self, busy: float, now: float) -> None:
        elapsed, self._seen_at = now - self._seen_at, now
        self._level += (busy - self._level) * -math.expm1(-elapsed / (AVERAGING * self.autoscale.idle_after))

    def _note(self, need: int, now: float) -> None:
        needed = self._needed
        while needed and needed[-1][1] <= need:
            needed.pop()
        needed.append((now, need))
        while needed[0][0] < now - self.autoscale.idle_after:
            needed.popleft()

    def _clamp(self, number: int) -> int:
        return min(max(number, self.autoscale.minimum), self.autoscale.maximum)
