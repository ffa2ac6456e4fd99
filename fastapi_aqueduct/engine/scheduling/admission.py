"""Admission: refuses tasks that have no chance, before they cost anything."""

from __future__ import annotations

import time

from ...exceptions import DeadlineUnreachable, QueueFull, StepUnavailable
from .stage import Stage


class Admission:
    """Decides whether a task that arrives now has a chance.

    Args:
        name: Name of the flow.
        stages: Its steps.
        queue_size: Tasks that may wait for a step, in each level.

    Attributes:
        unavailable: Indices of the steps that have no ready worker.
    """

    def __init__(self, name: str, stages: list[Stage], queue_size: int) -> None:
        self.unavailable: set[int] = set()
        self._name = name
        self._stages = stages
        self._queue_size = queue_size

    def note_workers(self, index: int) -> None:
        """Note whether a step has a ready worker, after a change in its workers."""
        if self._stages[index].pool.ready_workers():
            self.unavailable.discard(index)
        else:
            self.unavailable.add(index)

    def check_workers(self, timeout: float) -> None:
        """Refuse while a step has no ready worker.

        Args:
            timeout: Seconds for which the caller is prepared to wait.

        Raises:
            StepUnavailable: None is expected so soon.
        """
        now = time.monotonic()
        for index in self.unavailable:
            stage = self._stages[index]
            wait = stage.pool.expected_wait(now)
            if wait > timeout:
                raise StepUnavailable(
                    f"step {stage.name} of flow {self._name} has no ready worker; one is expected in {wait:.1f} s",
                    retry_after=wait,
                )

    def check(self, priority: int, timeout: float, is_idle: bool) -> None:
        """Refuse a task that would have to wait for a place, or would miss its deadline.

        Args:
            priority: Its priority.
            timeout: Seconds it has.
            is_idle: Whether no task is in flight. Then one is admitted whatever was measured, or a slow first call
                would have every later task refused.

        Raises:
            StepUnavailable: A step has no ready worker.
            QueueFull: The queue of the first step is full.
            DeadlineUnreachable: At the measured rate it would take longer.
        """
        if self.unavailable:
            self.check_workers(0.0)
        if is_idle:
            return
        expected = 0.0
        for stage in self._stages:
            expected += stage.expected_time()
        if self._stages[0].queue.count >= self._queue_size:  # of all levels: rarely full enough for a closer look
            self._check_queue(priority, expected)
        if expected > timeout:
            raise DeadlineUnreachable(
                f"a task of flow {self._name} would take about {expected:.1f} s now and has {timeout:g} s",
                retry_after=max(1.0, expected - timeout),
            )

    def _check_queue(self, priority: int, expected: float) -> None:
        first = self._stages[0]
        waiting = first.queue.waiting(first.queue.level(priority))
        if waiting >= self._queue_size:
            raise QueueFull(
                f"{waiting} tasks wait for step {first.name} of flow {self._name}; its queue is full",
                retry_after=max(1.0, expected),
            )
