"""When a worker is worn and should be replaced by a fresh one. Knows no clock: the age is passed in."""

from __future__ import annotations

import random

from ...step import FlowStep


class Wear:
    """Tells when one worker has done enough.

    Args:
        step: Its step, with the limits.
    """

    def __init__(self, step: FlowStep) -> None:
        self._max_tasks = None if step.max_tasks is None else step.max_tasks + random.randint(0, step.max_tasks_jitter)
        self._max_age = step.max_age
        self._max_growth = step.max_memory_growth

    @property
    def watches_memory(self) -> bool:
        """Whether the growth of its memory matters."""
        return self._max_growth is not None

    def reason(self, tasks: int, age: float, growth: int) -> str:
        """Say why the worker is worn; an empty string when it is not.

        Args:
            tasks: How many it has answered.
            age: Seconds since it was ready.
            growth: Bytes by which its private memory has grown since its first batch.
        """
        if self._max_tasks is not None and tasks >= self._max_tasks:
            return f"it has done {tasks} tasks"
        if self._max_age is not None and age >= self._max_age:
            return f"it is {age:.0f} s old"
        if self._max_growth is not None and growth >= self._max_growth:
            return f"its memory has grown by {growth} bytes"
        return ""
