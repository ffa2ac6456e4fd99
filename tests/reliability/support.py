"""What the tests of reliability share on the side of the API process."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from fastapi_aqueduct import Flow

from ..support import engine_of, eventually, pids


def all_pids(flow: Flow, step: int = 0) -> list[int]:
    """List the workers of a step of any state that have a process."""
    return [worker.pid for worker in flow.statistics().steps[step].workers if worker.pid]


def is_stopped(pid: int) -> bool:
    """Tell whether a process was stopped by a signal."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def parent(pid: int) -> int:
    """Return the process id of a process's parent."""
    found = re.search(r"^PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has for itself."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def descriptors() -> int:
    """Count the descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def lacking(flow: Flow) -> int:
    """Count the workers that are not there and that no launch under way and no timer will bring."""
    return engine_of(flow).supervisor.lacking()


async def complete(flow: Flow, nprocs: int, step: int = 0) -> None:
    """Wait until a step has exactly its number of workers, all ready."""
    await eventually(
        lambda: len(pids(flow, step)) == len(flow.statistics().steps[step].workers) == nprocs,
    )


async def until(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, for ``seconds`` seconds at most."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        pass
