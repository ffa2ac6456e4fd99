"""The state of a task that belongs to one process: what the engine notes on a task beside its fields.

All of it lies in the task's ``__dict__`` under one name, which the codec leaves out. So new state needs no change of
the codec, and none can leak into another process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypedDict

from .reports import RawStep

RUNTIME = "_aqueduct"
"""The name in ``__dict__``."""


class Runtime(TypedDict, total=False):
    """The state of a task in one process.

    Attributes:
        before: The task as it came to a step that answers with a patch; for `wire.patch.Changes` alone.
        deferred: `SharedBytes` by the name of the field that they become when it is read.
        failure: The exception of ``task.fail``.
        is_finished: Whether ``task.finish`` was called, where there is no worker.
        metrics: The steps that the task visited, as for `StepRecord`, and the total time.
        noted: The fields that ``share_value`` is to move when the task is processed, with their values.
    """

    before: Any
    deferred: dict[str, Any]
    is_finished: bool
    failure: BaseException
    metrics: tuple[tuple[RawStep, ...], float]
    noted: dict[str, Any]


class TaskHost(Protocol):
    """The code that runs tasks in this process, which tasks ask for what happens outside: the runner of a worker."""

    def is_cancelled(self, task: Any) -> bool:
        """Tell whether the caller of a task does not wait for it any more."""

    def emit(self, task: Any, item: Any) -> None:
        """Send an item of a task."""

    def progress(self, task: Any, done: float, of: float) -> None:
        """Send a report of a task's progress."""

    def finish(self, task: Any) -> None:
        """Answer a task before its call returns."""

    def rounds(self, tasks: Sequence[Any]) -> Iterator[list[Any]]:
        """Iterate over the tasks that are not answered yet; between two rounds send what was emitted."""

    def surround(self, task: Any) -> AbstractContextManager[None]:
        """Return a context manager in which code works for one task of a batch."""


task_hosts: list[TaskHost] = []
"""The host of this process; empty outside workers."""


def runtime_of(task: Any) -> Runtime:
    """Return the state of a task, to be read only."""
    state: Runtime = task.__dict__.get(RUNTIME, {})
    return state


def set_runtime(task: Any, part: str, value: Any) -> None:
    """Set a part of the state, which is replaced and never changed: a shallow copy of the task has the same object."""
    state = task.__dict__.get(RUNTIME)
    task.__dict__[RUNTIME] = {part: value} if state is None else {**state, part: value}


def drop_runtime(task: Any, part: str) -> Any:
    """Remove a part of the state and return it; None when there is none."""
    state: dict[str, Any] = task.__dict__.get(RUNTIME, {})
    if part not in state:
        return None
    if len(state) == 1:
        del task.__dict__[RUNTIME]
    else:
        task.__dict__[RUNTIME] = {name: value for name, value in state.items() if name != part}
    return state[part]
