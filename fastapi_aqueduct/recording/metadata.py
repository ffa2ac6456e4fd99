"""What is written of a failure beside the task."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

from ..engine.recorder import Failure, Recording
from ..runtime import RUNTIME
from ..task import BaseTask


class Entry(NamedTuple):
    """A failure that is to be written, without its task.

    Attributes:
        flow: Name of the flow.
        failure: What has happened.
        recording: Counts what becomes of it.
        task_id: The id of the task, as log records have it.
        path: Its file.
        at: When it failed.
    """

    flow: str
    failure: Failure
    recording: Recording
    task_id: object
    path: Path
    at: datetime


def metadata_of(entry: Entry, task: BaseTask, is_redacted: bool) -> dict[str, Any]:
    """Return what is written of a failure: values that JSON has, and no value of the task.

    Args:
        entry: The failure.
        task: The task as it is written.
        is_redacted: Whether the task was changed before.
    """
    failure = entry.failure
    return {
        "time": entry.at.astimezone(UTC).isoformat(),
        "flow": entry.flow,
        "target": entry.recording.flow_name(),
        "step": failure.step,
        "version": failure.version,
        "task_id": str(entry.task_id),  # of users, such as a UUID
        "task": f"{type(task).__module__}.{type(task).__qualname__}",
        "fields": {name: _describe(value) for name, value in vars(task).items() if name != RUNTIME},
        "redacted": is_redacted,
        "exception": {"type": failure.error, "message": failure.message, "traceback": failure.traceback},
        "worker": {
            "index": failure.worker,
            "pid": failure.pid,
            "died": failure.has_died,
            "exit_code": failure.exit_code,
            "cause": failure.cause,
            "reason": failure.reason,
            "tasks_in_hand": failure.in_hand,
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _packages(),
    }


@cache
def _packages() -> Mapping[str, str]:
    found = {distribution.metadata["Name"]: distribution.version for distribution in distributions()}
    return dict(sorted((name, version) for name, version in found.items() if name))


def _describe(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if isinstance(shape, tuple) and dtype is not None:
            return f"{name} {dtype} {shape}"
        return f"{name}, {len(value)} long" if isinstance(value, str | bytes | bytearray | list | dict) else name
    except Exception:  # of an attribute that a user's object makes when it is read
        return name
