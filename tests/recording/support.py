"""What the tests of the recorder share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi_aqueduct import Recorder
from fastapi_aqueduct.recording.task_file import TaskFile

from ..support import DEADLINE


async def files_of(recorder: Recorder) -> list[TaskFile]:
    """Wait until all is written, and read it; the oldest is first."""
    assert await asyncio.to_thread(recorder.wait, DEADLINE)
    return [TaskFile.read(path) for path in sorted(recorder.directory.glob("*.task"))]


def error_of(file: TaskFile) -> Mapping[str, Any]:
    """Return what a file says of the exception."""
    error: Mapping[str, Any] = file.metadata["exception"]
    return error


def names(directory: Path) -> list[str]:
    """List all that is in a directory."""
    return sorted(path.name for path in directory.iterdir())
