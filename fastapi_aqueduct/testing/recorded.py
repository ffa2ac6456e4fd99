"""Reads tasks that a recorder has written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..recording.task_file import TaskFile


def read_task(path: str | os.PathLike[str], *, is_trusted: bool = False) -> Any:
    """Return a task that a `Recorder` has written, as it entered the step in which it failed.

    The file is a pickle, which can run any code: one of another user, or that others may write, is refused.

    Args:
        path: The file.
        is_trusted: Whether it is read although others may write it: for a file that lies beside the code of a test.

    Returns:
        The task, a new one with each call. Its large fields are read-only, as in a worker.

    Raises:
        RecordingError: It is no recorded task, other users can write it, or its class is not what it was.
    """
    return TaskFile.read(Path(path), is_trusted).make_task()
