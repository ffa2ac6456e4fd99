"""The entry of a flow: whether a task may take a place in the queue of its first step."""

from __future__ import annotations

from typing import Protocol

from ...exceptions import NotRunningError, TaskTimeout
from ...task import BaseTask
from ..marks import Marks
from ..refusals import Refusals
from ..shape import indices
from ..tenants import Tenant
from ..wait import Wait
from .dispatcher import Dispatcher
from .stage import Stage
from .whereabouts import outside


class Entry(Protocol):
    """Refuses tasks, lets them in, or has them wait."""

    def check(self, priority: int, timeout: float, tenant: Tenant | None) -> None:
        """Refuse a task that would have to wait for a place, or would miss its deadline.

        Args:
            priority: Its priority.
            timeout: Seconds in which its answer must come.
            tenant: Whose it is; None where that does not matter, or is not known yet.

        Raises:
            NotRunningError: Nothing runs the tasks of the flow now.
            StepUnavailable: A step has no ready worker.
            QueueFull: The queue of the first step is full.
            TenantOverShare: So is the share of the tenant.
            DeadlineUnreachable: At the measured rate it would take longer than ``timeout`` seconds.
        """

    def has_place(self, step: int, priority: int, timeout: float, task: BaseTask | None, marks: Marks) -> bool:
        """Tell whether a task may enter now; this runs for every task.

        Args:
            step: The step that it visits first, or those of a group; see `Route.next`.
            priority: Its priority.
            timeout: Seconds in which its answer must come.
            task: The task, for conditions that are evaluated with it; None where it cannot be read.
            marks: Its marks.

        Raises:
            StepUnavailable, DeadlineUnreachable: A step will have no ready worker in time.
        """

    def follows(self, step: int, key: bytes) -> bool:
        """Tell whether a task would share a run that is under way: it needs no place then.

        Args:
            step: The step that it visits first.
            key: Its key there; empty if it shares no run.
        """

    def wait(self, step: int, priority: int, deadline: float, marks: Marks) -> Wait[None]:
        """Wait for a place, which the task must take before anything else runs. A cancellation gives it up.

        Args:
            step: The step that the task visits first, or those of a group.
            priority: Its priority.
            deadline: On the clock of ``time.monotonic``.
            marks: Its marks.

        Raises:
            TaskTimeout: There was none in time.
            NotRunningError: The flow was stopped meanwhile.
        """


class QueueEntry:
    """The entry of a flow whose queues are in this process.

    Args:
        dispatcher: The owner of the queues.
        queue_size: Tasks that may wait for a step, in each level.
        refusals: Counts the tasks that are refused.
    """

    def __init__(self, dispatcher: Dispatcher, queue_size: int, refusals: Refusals) -> None:
        self._dispatcher = dispatcher
        self._admission = dispatcher.admission
        self._stages = dispatcher.stages
        # With fewer tasks in a queue there is a place for every tenant.
        self._fewest = min([queue_size, *(stage.fair.limit for stage in self._stages if stage.fair is not None)])
        self._refusals = refusals

    def check(self, priority: int, timeout: float, tenant: Tenant | None) -> None:
        """Refuse a task that would have to wait for a place, or would miss its deadline; see `Entry.check`."""
        self._admission.check(priority, timeout, not self._dispatcher.in_flight, tenant)

    def has_place(self, step: int, priority: int, timeout: float, task: BaseTask | None, marks: Marks) -> bool:
        """Tell whether a task may enter now; see `Entry.has_place`."""
        if self._admission.unavailable:
            self._admission.check_workers(timeout, timeout, task)
        if step < 0:
            return all(_has_place(self._stages[first], priority, marks) for first in indices(~step))
        stage = self._stages[step]
        # The first two questions are cheap, and nearly always enough.
        if stage.waiters.contenders or stage.queue.count >= self._fewest:
            return _has_place(stage, priority, marks)
        return True

    def follows(self, step: int, key: bytes) -> bool:
        """Tell whether a task would share a run that is under way; see `Entry.follows`."""
        runs = self._stages[step].runs if step >= 0 else None
        return runs is not None and key in runs

    def wait(self, step: int, priority: int, deadline: float, marks: Marks) -> Wait[None]:
        """Wait for a place; see `Entry.wait`. For a group, in the queue of the first step of each branch."""
        stages = [self._stages[step]] if step >= 0 else [self._stages[first] for first in indices(~step)]
        full = [stage for stage in stages if not _has_place(stage, priority, marks)]
        while full:  # else the task waits for memory only
            got = full[0]
            yield from self._wait_at(got, priority, deadline, marks)
            # It has a place there for now. In the other queues it passes callers that wait: they wait for this one,
            # too, and if each let the others go first, none would enter.
            full = [other for other in stages if other is not got and not _has_room(other, priority)]

    def _wait_at(self, stage: Stage, priority: int, deadline: float, marks: Marks) -> Wait[None]:
        has_place = yield from stage.waiters.wait(stage.queue.level(priority), marks.tenant, deadline)
        name = self._dispatcher.name
        if has_place is None:
            raise self._refusals.count(
                NotRunningError(f"flow {name} or its event loop was stopped while the task waited for a place")
            )
        if not has_place:
            self._dispatcher.count("timed_out")
            raise TaskTimeout(f"timeout of a task in flow {name}: it was {outside(stage)}")


def _has_place(stage: Stage, priority: int, marks: Marks) -> bool:
    return stage.waiters.has_place(stage.queue.level(priority), marks.tenant)


def _has_room(stage: Stage, priority: int) -> bool:
    return stage.waiters.has_room(stage.queue.level(priority))
