"""What is measured of a flow, under the names that the package aqueduct has for it."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine.statistics import FlowStatistics, WorkerState
from ..engine.system.process_memory import private_memory
from ..reports import StepRecord, TaskRecord
from ..step import FlowStep
from .base import MAIN_PROCESS, MetricsItems
from .collect import TasksStats
from .processes import ProcessesStats
from .task import TasksMetricsStorage

MOST_BATCHES = 1000
"""Batches that are remembered because more of their tasks may be reported; most batches end as a whole."""


class Measure:
    """Turns records of tasks and statistics of a flow into metrics.

    Args:
        steps: The steps of the flow, each with its name.
    """

    def __init__(self, steps: Sequence[tuple[str, FlowStep]]) -> None:
        self._steps = steps
        self.begin()

    def begin(self) -> None:
        """Begin with a flow that has just been started."""
        self._batching = {name for name, step in self._steps if step.call_size > 1}
        self._batches: dict[tuple[int, float], int] = {}
        self._free_since: dict[int, float] = {}
        self._ended = TasksStats()
        self._deaths = 0

    def tasks(self, record: TaskRecord) -> TasksMetricsStorage:
        """Return the times and sizes of a task.

        Args:
            record: What was recorded of it.
        """
        storage = TasksMetricsStorage()
        before, left_at, priority = MAIN_PROCESS, record.started_at, record.priority
        for step in record.steps:
            name = way(before, step.step, priority)
            storage.transfer_times.add(name, step.answered_at - left_at - step.handle_time)
            storage.task_sizes.add(name, step.sent_size)
            storage.handle_times.add(step.step, step.handle_time)
            if step.step in self._batching and self._is_first(step):
                storage.batch_sizes.add(step.step, step.batch_size)
                storage.batch_times.add(step.step, self._batch_time(step))
            before, left_at = step.step, step.answered_at
        if record.outcome == "completed":
            name = way(before, MAIN_PROCESS, priority)
            storage.transfer_times.add(name, record.ended_at - left_at)
            storage.task_sizes.add(name, record.answer_size)
            storage.handle_times.add("total", record.ended_at - record.started_at)
        return storage

    def outcomes(self, statistics: FlowStatistics) -> TasksStats:
        """Return how many tasks have ended since the last call, and how.

        Args:
            statistics: The statistics of the flow.
        """
        before, now = (
            self._ended,
            TasksStats(
                cancel=statistics.cancelled,
                timeout=statistics.timed_out,
                complete=statistics.completed,
                fail=statistics.failed,
            ),
        )
        self._ended = now
        return TasksStats(
            cancel=now.cancel - before.cancel,
            timeout=now.timeout - before.timeout,
            complete=now.complete - before.complete,
            fail=now.fail - before.fail,
        )

    def queue_sizes(self, statistics: FlowStatistics) -> MetricsItems:
        """Return how many tasks wait for each step, at each level of priority.

        Args:
            statistics: The statistics of the flow.
        """
        items = MetricsItems()
        before = MAIN_PROCESS
        for step in statistics.steps:
            for priority, count in enumerate(step.queued_by_priority):
                items.add(way(before, step.name, priority), count)
            before = step.name
        return items

    def memory_usage(self, statistics: FlowStatistics) -> MetricsItems:
        """Return the bytes of memory of the workers, which they do not share, of each step and of all.

        Args:
            statistics: The statistics of the flow.
        """
        items = MetricsItems()
        if not statistics.steps:  # another API process of the same pipeline exports them
            return items
        total = 0
        for (name, declared), (number, step) in zip(self._steps, enumerate(statistics.steps), strict=True):
            if name == declared.numbered_name(number + 1):
                name = declared.numbered_name(number)  # in these metrics the package aqueduct counts from 0
            used = [private_memory(worker.pid) or 0 for worker in step.workers if worker.pid is not None]
            for size in used:
                items.add(name, size)
            if declared.most_workers != 1:
                items.add(f"{name}_nprocs_sum", sum(used))
            total += sum(used)
        items.add("all_memory_usage", total)
        return items

    def processes(self, statistics: FlowStatistics) -> ProcessesStats:
        """Return how many workers run, and how many have died since the last call.

        Args:
            statistics: The statistics of the flow.
        """
        deaths, self._deaths = self._deaths, sum(step.restarts for step in statistics.steps)
        running = sum(worker.state is not WorkerState.DEAD for step in statistics.steps for worker in step.workers)
        return ProcessesStats(dead=self._deaths - deaths, running=running)

    def _is_first(self, step: StepRecord) -> bool:
        """Tell whether no other task of the same call was reported."""
        batch = step.pid, step.sent_at
        seen = self._batches.pop(batch, 0)
        self._batches[batch] = seen + 1  # at the end of the dictionary
        if len(self._batches) > MOST_BATCHES:
            del self._batches[next(iter(self._batches))]
        return seen % step.batch_size == 0  # several calls may have travelled together

    def _batch_time(self, step: StepRecord) -> float:
        """Return the seconds for which the worker was free and the first task of its batch waited for others."""
        free_since = self._free_since.get(step.pid, 0.0)
        self._free_since[step.pid] = max(free_since, step.answered_at)
        return max(0.0, step.sent_at - max(step.arrived_at, free_since))


def way(before: str, after: str, priority: int) -> str:
    """Return the name of the way from one step to another.

    Args:
        before: The step before, or `MAIN_PROCESS`.
        after: The step after, or `MAIN_PROCESS`.
        priority: The priority of the tasks that take it.
    """
    name = f"from_{before}_to_{after}"
    return f"p_{priority}_{name}" if priority > 0 else name
