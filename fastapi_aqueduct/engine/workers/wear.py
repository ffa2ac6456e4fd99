"""When a worker should be replaced by a fresh one."""

from __future__ import annotations

import random

from ...step import FlowStep
from ..statistics import WearKind
from ..system.process_memory import private_memory
from .handle import WorkerHandle


class Wear:
    """The limits of one worker's life, and what has been measured of it.

    Args:
        step: Its step, with the limits.
        memory_interval: Seconds at least between two looks at its memory.
    """

    def __init__(self, step: FlowStep, memory_interval: float) -> None:
        self._max_tasks = None if step.max_tasks is None else step.max_tasks + random.randint(0, step.max_tasks_jitter)
        self._max_age = step.max_age
        self._max_growth = step.max_memory_growth
        self._memory_interval = memory_interval
        self._measured_at = 0.0
        self._base_memory: int | None = None

    def check(self, worker: WorkerHandle, now: float) -> tuple[WearKind, str] | None:
        """Return how the worker is worn, and the same in words; None when it is not.

        Args:
            worker: The worker.
            now: The time on the clock of ``time.monotonic``.
        """
        if self._max_tasks is not None and worker.in_flight.handled >= self._max_tasks:
            return WearKind.TASKS, f"it has done {worker.in_flight.handled} tasks"
        age = now - worker.ready_at
        if self._max_age is not None and age >= self._max_age:
            return WearKind.AGE, f"it is {age:.0f} s old"
        if self._max_growth is not None and (growth := self._growth(worker, now)) >= self._max_growth:
            return WearKind.MEMORY, f"its memory has grown by {growth} bytes"
        return None

    def _growth(self, worker: WorkerHandle, now: float) -> int:
        """Return the bytes by which its private memory has grown since its first batch; 0 when it was just measured."""
        if not worker.in_flight.handled or now - self._measured_at < self._memory_interval:
            return 0
        self._measured_at = now
        memory = private_memory(worker.pid)
        if memory is None:
            return 0
        if self._base_memory is None:
            self._base_memory = memory
        return memory - self._base_memory
