"""Admission: refuses tasks that have no chance, before they cost anything."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...task import BaseTask
from ..refusals import Refusals
from ..route import Route
from ..tenants import Tenant
from .fair_queue import FairQueue
from .stage import Stage
from .ticket import Ticket
from .verdicts import Absence, Verdicts, concerns


class Admission:
    """Decides whether a task that arrives now has a chance.

    Args:
        name: Name of the flow.
        stages: Its steps.
        queue_size: Tasks that may wait for a step, in each level.
        refusals: Counts the tasks that are refused.
        route: The route of tasks through the steps.

    Attributes:
        unavailable: Indices of the steps that have no ready worker.
        wake: Called with the index of a step that sleeps and has a task.
        on_change: Called after a change in the workers of a step.
    """

    def __init__(self, name: str, stages: list[Stage], queue_size: int, refusals: Refusals, route: Route) -> None:
        self.unavailable: set[int] = set()
        self.wake: Callable[[int], None] = lambda index: None
        self.on_change: Callable[[], None] = lambda: None
        self._stages = stages
        self._route = route
        self._first = [stages[step] for step in route.first]
        self._queue_size = queue_size
        self._verdicts = Verdicts(name, refusals)

    def note_workers(self, index: int) -> None:
        """Note whether a step has a ready worker, after a change in its workers."""
        if self._stages[index].pool.ready_workers():
            self.unavailable.discard(index)
        else:
            self.unavailable.add(index)
        self.on_change()

    def check_workers(self, timeout: float, patience: float, task: BaseTask | None = None) -> None:
        """Wake the steps that sleep, and refuse a task if a step will have no ready worker in time.

        A step with a ``handle_condition`` is woken if the task meets it already. If it meets it only later, the step is
        woken when the task gets there, by `wake_at`.

        Args:
            timeout: Seconds that the task has.
            patience: Seconds that it may wait for a worker of a step that has lost its own.
            task: The task; None before there is one, when only steps without a condition are woken.

        Raises:
            DeadlineUnreachable: A step that sleeps or wakes needs longer to start. It is woken all the same.
            StepUnavailable: No worker is expected so soon in a step that has lost its own.
        """
        stages = [stage for index in self.unavailable if _concerns(stage := self._stages[index], task)]
        for stage in stages:
            self.wake_at(stage.pool.index)
        now = time.monotonic()
        self._verdicts.judge_absences([absence_of(stage, now) for stage in stages], timeout, patience)

    def wake_at(self, index: int) -> None:
        """Wake a step if it sleeps, as there is a task for it."""
        if self._stages[index].pool.is_asleep:
            self.wake(index)

    def check(self, priority: int, timeout: float, is_idle: bool, tenant: Tenant | None) -> None:
        """Refuse a task that would have to wait for a place, or would miss its deadline.

        Args:
            priority: Its priority.
            timeout: Seconds it has.
            is_idle: Whether no task is in flight. Then one is admitted whatever was measured, or a slow first call
                would have every later task refused.
            tenant: Whose it is; None where that does not matter, or is not known yet.

        Raises:
            StepUnavailable: A step has lost its workers.
            QueueFull: The queue of the first step is full.
            TenantOverShare: So is the share of the tenant.
            DeadlineUnreachable: At the measured rate it would take longer, or a step that sleeps needs longer to start.
        """
        if self.unavailable:
            self.check_workers(timeout, patience=0.0)
        if is_idle:
            return
        expected = self._route.expected_time([stage.expected_time() for stage in self._stages])
        if tenant is not None and self._stages[0].fair is not None:
            expected = self._check_share(priority, tenant, expected, self._stages[0].fair)
        for stage in self._first:
            if stage.queue.count >= self._queue_size:  # of all levels: rarely full enough for a closer look
                self._check_queue(stage, priority, expected)
        if expected > timeout:
            raise self._verdicts.late(expected, timeout)

    def _check_share(self, priority: int, tenant: Tenant, expected: float, queue: FairQueue[Ticket]) -> float:
        """Refuse a task of a tenant that has its share; return the seconds that a task of this tenant should take."""
        first, level = self._stages[0], queue.level(priority)
        expected += first.expected_time(queue.calls_before(level, *tenant)) - first.expected_time()
        waiting = queue.waiting_of(level, tenant.name)
        if waiting >= queue.limit:
            raise self._verdicts.over_share(first.name, waiting, expected)
        return expected

    def _check_queue(self, first: Stage, priority: int, expected: float) -> None:
        waiting = first.queue.waiting(first.queue.level(priority))
        if waiting >= self._queue_size:
            raise self._verdicts.full(first.name, waiting, expected)


def absence_of(stage: Stage, now: float) -> Absence:
    """Return what a task has to expect of a step without a ready worker.

    Args:
        stage: The step.
        now: The time on the clock of ``time.monotonic``.
    """
    pool = stage.pool
    return Absence(stage.name, pool.expected_wait(now), pool.is_asleep or pool.is_waking)


def _concerns(stage: Stage, task: BaseTask | None) -> bool:
    pool = stage.pool
    return concerns(pool.step.handle_condition, pool.is_asleep or pool.is_waking, task)
