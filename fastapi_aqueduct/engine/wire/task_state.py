"""Tasks whose class defines ``__getstate__`` or ``__setstate__``, or overrides ``update``."""

from __future__ import annotations

from typing import Any

from ...runtime import RUNTIME
from ...task import BaseTask

_OWN = ("task_id", "priority", "expiration_time")
"""Fields of `BaseTask`, which travel beside the state, since that may leave them out."""


def has_state(cls: type[BaseTask]) -> bool:
    """Tell whether a class defines one of the two methods."""
    return cls.__getstate__ is not object.__getstate__ or hasattr(cls, "__setstate__")


def has_update(cls: type[BaseTask]) -> bool:
    """Tell whether a class overrides `BaseTask.update`, so its tasks get their results from that."""
    # It may also be a field, which replaces the method.
    return callable(cls.update) and cls.update is not BaseTask.update


def get_state(task: BaseTask) -> Any:
    """Return the state of a task, whose fields in shared memory are copied out first, so they are ordinary fields."""
    task._copy_out()
    runtime = task.__dict__.pop(RUNTIME, None)
    try:
        return task.__getstate__()
    finally:
        if runtime is not None:
            task.__dict__[RUNTIME] = runtime


def own_fields(task: BaseTask) -> dict[str, Any]:
    """Return the fields of `BaseTask` that a task has."""
    return {name: task.__dict__[name] for name in _OWN if name in task.__dict__}


def set_state(task: BaseTask, state: Any, own: dict[str, Any]) -> None:
    """Replace the fields of a task by a state; the task is unchanged when its ``__setstate__`` raises.

    Args:
        task: The task.
        state: The value of `get_state`.
        own: The value of `own_fields`.
    """
    before = task.__dict__
    task.__dict__ = own.copy()
    try:
        setter: Any = getattr(task, "__setstate__", None)
        if setter is None:
            task.__dict__.update(state)
        else:
            setter(state)
    except BaseException:
        task.__dict__ = before
        raise
    for name, value in own.items():
        task.__dict__.setdefault(name, value)
