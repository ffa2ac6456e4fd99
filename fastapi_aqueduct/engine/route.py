"""The route of tasks through the steps of a flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..task import BaseTask
from .marks import NO_MARKS, Marker

START = -1
"""The step before the first."""

FINISHED = -1
"""The next step of a task that has no further step to visit."""


class Route:
    """The order of the steps, the conditions under which a task visits each, and what is to be known of it there.

    The dispatcher asks it for new tasks, and the workers for those that they have unpacked.

    Args:
        conditions: ``handle_condition`` of every step, in the order of the steps.
        markers: What reads the marks of the tasks of each step, None for a step without; empty: no step has any.

    Attributes:
        has_marks: Whether `marks` is to be asked.
    """

    def __init__(self, conditions: Sequence[Callable[[Any], Any]], markers: Sequence[Marker | None] = ()) -> None:
        self._conditions = conditions
        self._count = len(conditions)
        self._markers = markers
        self.has_marks = bool(markers)

    def next(self, step: int, task: BaseTask) -> int:
        """Return the step that a task visits next.

        Args:
            step: Index of the step that the task has visited last; `START` when there is none.
            task: The task.

        Returns:
            Index of the first step after it whose condition the task meets; `FINISHED` when there is none.

        Raises:
            Exception: Raised by a condition.
        """
        following = step + 1
        while following < self._count:
            if self._conditions[following](task):
                return following
            following += 1
        return FINISHED

    def marks(self, step: int, task: BaseTask) -> bytes:
        """Return what is to be known of a task while it waits for a step, packed; empty if that is nothing.

        Args:
            step: Index of the step that it visits next; it may be `FINISHED`.
            task: The task.

        Raises:
            ConfigurationError: A value of the task is none that can be a key or a cost.
            Exception: Raised by a function of the user.
        """
        marker = self._markers[step] if self.has_marks and step != FINISHED else None
        return (NO_MARKS if marker is None else marker.read(task)).pack()

    def leads(self, step: int, following: int) -> bool:
        """Tell whether a task may go from one step to another.

        Args:
            step: Index of the one.
            following: Index of the other.
        """
        return step < following < self._count
