"""The memory and the threads of a worker process, as the system reports them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

from ..memory import own_part

_TICKS = os.sysconf("SC_CLK_TCK")
_THREADS = re.compile(r"^Threads:\s+(\d+)", re.MULTILINE)


def memory_of(pid: int) -> int | None:
    """Return the bytes of private memory of a process; on macOS those of its resident memory.

    None where the system does not tell, or the process is gone.
    """
    found = own_part(pid)
    return resident_memory(pid) if found is None and sys.platform == "darwin" else found


def resident_memory(pid: int) -> int | None:
    """Return the bytes of resident memory of a process, with those that it shares, from ps(1)."""
    return _ask("ps", "-o", "rss=", "-p", str(pid), factor=1024)


def threads_of(pid: int) -> int | None:
    """Return the number of threads of a process; None where the system does not tell, or the process is gone."""
    try:
        found = _THREADS.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return int(found[1]) if found else None


def thread_times(pid: int) -> dict[int, float]:
    """Return the seconds of processor time of each thread of a process by its number; empty as `threads_of` is None."""
    found: dict[int, float] = {}
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended
            # The name of the program, in parentheses, may have spaces.
            fields = path.read_text().rpartition(")")[2].split()
            found[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def _ask(*command: str, factor: int) -> int | None:
    try:
        shown = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return None
    return int(shown) * factor if shown.isdecimal() else None
