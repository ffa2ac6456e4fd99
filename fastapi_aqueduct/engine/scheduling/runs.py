"""The runs of a step that several tasks share. Knows no queue and no worker: only which task is in which run.

    task ─▶ enter ─┬─▶ leads a new run
                   └─▶ follows: there is a run with its key ─▶ leave, or end for all
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Run(Generic[T]):
    """One run of a step for all tasks that share it.

    It belongs to none of them: the task that began it may leave while others wait.

    Args:
        key: What its tasks have in common.

    Attributes:
        key: As given.
        members: The tasks that wait for it, in the order in which they came; only `Runs` changes them.
    """

    __slots__ = ("key", "members")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.members: dict[T, None] = {}


class Runs(Generic[T]):
    """The runs of one step that have not ended, by key.

    Attributes:
        followers: How many tasks have entered a run that another one had begun.
    """

    def __init__(self) -> None:
        self.followers = 0
        self._open: dict[Hashable, Run[T]] = {}
        self._run_of: dict[T, Run[T]] = {}

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self._open)

    def __contains__(self, key: Hashable) -> bool:
        """Tell whether a task with a key would follow."""
        return key in self._open

    def enter(self, key: Hashable, task: T) -> tuple[Run[T], bool]:
        """Add a task to the run with its key.

        Args:
            key: The key.
            task: The task; it is in no run.

        Returns:
            The run, and whether the task has begun it.
        """
        run = self._open.get(key)
        is_new = run is None
        if run is None:
            run = self._open[key] = Run(key)
        else:
            self.followers += 1
        run.members[task] = None
        self._run_of[task] = run
        return run, is_new

    def run_of(self, task: T) -> Run[T]:
        """Return the run that a task waits for."""
        return self._run_of[task]

    def leave(self, task: T) -> Run[T] | None:
        """Remove a task that does not wait any more.

        Returns:
            The run, if this was its last task: it has ended, and the next task with its key begins another one.
        """
        run = self._run_of.pop(task)
        del run.members[task]
        if run.members:
            return None
        del self._open[run.key]
        return run

    def end(self, run: Run[T]) -> list[T]:
        """End a run that has an outcome; return its tasks in the order in which they came."""
        members = list(run.members)
        for task in members:
            del self._run_of[task]
        run.members.clear()
        del self._open[run.key]
        return members
