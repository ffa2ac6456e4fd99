"""What the kernel knows about the memory of processes and of the machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

_PRIVATE = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
_KILLS = re.compile(r"^oom_kill (\d+)", re.MULTILINE)


def private_memory(pid: int) -> int | None:
    """Return the bytes of memory that a process has for itself, without files and shared memory.

    None where the system does not tell (proc_pid_status(5) is Linux only), or the process is gone.
    """
    try:
        found = _PRIVATE.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def default_memory_limit() -> int:
    """Return half of the memory that the machine or the container has, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        pass
    return total // 2


class OutOfMemory:
    """Tells whether the kernel has killed for want of memory in this container.

    Reads the counter of the control group (cgroup v2, ``memory.events``), so it knows that it happened, and the
    caller knows who died; where there is no such file it never says yes.
    """

    def __init__(self) -> None:
        self._path = _events_path()
        self._kills = self._read()

    def happened(self) -> bool:
        """Tell whether the kernel has killed since the last time this was asked."""
        before, self._kills = self._kills, self._read()
        return self._kills > before

    def _read(self) -> int:
        try:
            found = _KILLS.search(self._path.read_text())
        except OSError:
            return 0
        return int(found[1]) if found else 0


def _events_path() -> Path:
    try:
        group = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2]
    except OSError:
        group = "/"
    return Path("/sys/fs/cgroup") / group.lstrip("/") / "memory.events"
