"""The memory of processes, of the container and of the machine, as the kernel reports it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .cgroup import ControlGroup

_PRIVATE = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)


def private_memory(pid: int) -> int | None:
    """Return the bytes of private memory of a process: without files and shared memory.

    None if the system does not report it (proc_pid_status(5) is Linux only) or the process is gone.
    """
    try:
        found = _PRIVATE.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def default_memory_limit(group: ControlGroup | None = None) -> int:
    """Return half of the memory of the machine or the container, in bytes.

    Args:
        group: The control group that limits the container; default: that of this process.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = (group or ControlGroup()).memory_limit()
    return (total if limit is None else min(total, limit)) // 2


class OutOfMemory:
    """Detects that the kernel has killed a process of this container because memory ran out.

    The control group only counts such kills; the caller knows which process died. Without a counter, no kill is
    detected.

    Args:
        group: The control group with the counter; default: that of this process.
    """

    def __init__(self, group: ControlGroup | None = None) -> None:
        self._group = group or ControlGroup()
        self._kills = self._group.out_of_memory_kills()

    def happened(self) -> bool:
        """Tell whether the kernel has killed a process since the last call."""
        before, self._kills = self._kills, self._group.out_of_memory_kills()
        return self._kills > before
