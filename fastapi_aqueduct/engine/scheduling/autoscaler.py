"""Lets the number of workers of elastic steps follow their work; see `ScalingPolicy` for how many."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from ...autoscale import Autoscale
from ..workers.in_flight import PREFETCH
from ..workers.pool import Pool
from ..workers.scaling import Demand, ScalingPolicy
from .stage import Stage

LOOKS = 10
"""Looks at a step in the time of ``idle_after``, at least."""

SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.05, 1.0
"""Seconds between two looks."""


class ElasticStep:
    """A step whose number of workers follows its work.

    Args:
        stage: The step.
        autoscale: Its declaration.
        now: The time on the clock of ``time.monotonic``.

    Attributes:
        stage: As given.
        policy: Decides how many workers it should have.
        interval: Seconds between two looks at it.
    """

    def __init__(self, stage: Stage, autoscale: Autoscale, now: float) -> None:
        self.stage = stage
        self.policy = ScalingPolicy(autoscale, now)
        most = min(LONGEST_INTERVAL, autoscale.up_wait / 2, autoscale.idle_after / LOOKS)
        self.interval = max(SHORTEST_INTERVAL, most)
        self._pace = PREFETCH
        self._handled = 0

    def observe(self, now: float) -> int:
        """Return how many workers it should have.

        Args:
            now: The time on the clock of ``time.monotonic``.
        """
        return self.policy.observe(self._demand(now), now)

    def _demand(self, now: float) -> Demand:
        stage = self.stage
        pool, queue, places = stage.pool, stage.queue, stage.places
        ready = pool.ready_workers()
        tables = [worker.in_flight for worker in ready]
        busy = sum(min(1.0, table.calls / (places or 1)) for table in tables)
        waiting = queue.calls() / (places or 1)
        paces = [table.pace for table in tables if table.handled]
        if paces:
            self._pace = sum(paces) / len(paces)
        # The number falls when a worker leaves, which is no work.
        before, self._handled = self._handled, sum(worker.in_flight.handled for worker in stage.workers)
        return Demand(
            busy=busy,
            waiting=waiting,
            waited=now - queue.oldest_at() if queue.count else 0.0,
            pace=self._pace,
            has_worked=bool(busy or waiting) or self._handled > before,
            ready=len(ready),
            coming=max(0, pool.size - len(ready)),
            load_time=pool.load_time,
        )


class Autoscaler:
    """Looks at the elastic steps of a flow from time to time, and has their workers launched and retired.

    While all of them are asleep it does nothing.

    Args:
        stages: The steps of the flow.
        fit: Gives a pool another number of workers, unless a change of it is under way.
    """

    def __init__(self, stages: Sequence[Stage], fit: Callable[[Pool, int], None]) -> None:
        now = time.monotonic()
        self._fit = fit
        self._steps = {
            stage.pool.index: ElasticStep(stage, stage.pool.step.autoscale, now)
            for stage in stages
            if stage.pool.step.autoscale is not None
        }
        self._interval = min((step.interval for step in self._steps.values()), default=LONGEST_INTERVAL)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in another event loop."""
        self.detach()
        self._loop = loop
        self._look_again()

    def detach(self) -> None:
        """Stop working; the workers stay as they are."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop = None

    def wake(self, index: int) -> None:
        """Launch a worker of a step that sleeps. May be called in any event loop.

        Args:
            index: Index of the step.
        """
        loop = self._loop
        if loop is asyncio.get_running_loop():
            self._wake(index)
        elif loop is not None:
            with contextlib.suppress(RuntimeError):  # it was closed in this instant; the next task wakes the step
                loop.call_soon_threadsafe(self._wake, index)

    def note_size(self, index: int, size: int) -> None:
        """Note how many workers a step was given by hand: it goes on from there.

        Args:
            index: Index of the step.
            size: The number.
        """
        if index in self._steps:
            self._steps[index].policy.set(size, time.monotonic())
            self._look_again()

    def _wake(self, index: int) -> None:
        step = self._steps[index]
        self._fit(step.stage.pool, step.policy.keep(1, time.monotonic()))
        self._look_again()

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for step in self._steps.values():
            self._fit(step.stage.pool, step.observe(now))
        self._look_again()

    def _look_again(self) -> None:
        is_awake = any(step.policy.wanted or step.stage.pool.size for step in self._steps.values())
        if self._loop is not None and self._timer is None and is_awake:
            self._timer = self._loop.call_later(self._interval, self._look)
