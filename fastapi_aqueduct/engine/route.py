"""The route of tasks through the steps of a flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..task import BaseTask

START = -1
"""The step before the first."""

FINISHED = -1
"""The next step of a task that has no further step to visit."""


class Route:
    """The order of the steps, and the conditions under which a task visits each.

    The dispatcher asks it for new tasks, and the workers for those that they have unpacked.

    Args:
        conditions: ``handle_condition`` of every step, in the order of the steps.
    """

    def __init__(self, conditions: Sequence[Callable[[Any], Any]]) -> None:
        self._conditions = conditions
        self._count = len(conditions)

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

    def leads(self, step: int, following: int) -> bool:
        """Tell whether a task may go from one step to another.

        Args:
            step: Index of the one.
            following: Index of the other.
        """
        return step < following < self._count
