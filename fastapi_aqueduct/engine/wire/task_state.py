"""Tasks whose class says itself what its state is, as pickle lets it: ``__getstate__`` and ``__setstate__``."""

from __future__ import annotations

from typing import Any

from ...runtime import RUNTIME
from ...task import BaseTask

_OWN = ("task_id", "priority", "expiration_time")
"""Fields of `BaseTask`, which travel beside a state that may leave them out."""


def has_state(cls: type[BaseTask]) -> bool:
    """Tell whether a class defines one of the two methods."""
    return cls.__getstate__ is not object.__getstate__ or hasattr(cls, "__setstate__")


def get_state(task: BaseTask) -> Any:
    """Return the state of a task; what lies in shared memory is copied out first, so its fields are ordinary."""
    task._copy_out()
    runtime = task.__dict__.pop(RUNTIME, None)
    try:
        return task.__getstate__()
    finally:
        if runtime is not None:
            task.__dict__[RUNTIME] = runtime


def own_fields(task: BaseTask) -> dict[str, Any]:
    """Return those fields of a task that its class need not know."""
    return {name: task.__dict__[name] for name in _OWN if name in task.__dict__}


def set_state(task: BaseTask, state: Any, own: dict[str, Any]) -> None:
    """Put a state in place of the fields of a task, which is unchanged when its ``__setstate__`` raises.

    Args:
        task: The task.
        state: What `get_state` has returned.
        own: What `own_fields` has returned.
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
