"""What the kernel knows about the memory of processes and of the machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .cgroup import ControlGroup

_PRIVATE = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)


def private_memory(pid: int) -> int | None:
    """Return the bytes of memory that a process has for itself, without files and shared memory.

    None where the system does not tell (proc_pid_status(5) is Linux only), or the process is gone.
    """
    try:
        found = _PRIVATE.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def default_memory_limit(group: ControlGroup | None = None) -> int:
    """Return half of the memory that the machine or the container has, in bytes.

    Args:
        group: What limits the container; default: the control group of this process.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = (group or ControlGroup()).memory_limit()
    return (total if limit is None else min(total, limit)) // 2


class OutOfMemory:
    """Tells whether the kernel has killed for want of memory in this container.

    The control group has a counter, so it is known that it happened, and the caller knows who died; where there is no
    such counter it never says yes.

    Args:
        group: Whose counter; default: the control group of this process.
    """

    def __init__(self, group: ControlGroup | None = None) -> None:
        self._group = group or ControlGroup()
        self._kills = self._group.out_of_memory_kills()

    def happened(self) -> bool:
        """Tell whether the kernel has killed since the last time this was asked."""
        before, self._kills = self._kills, self._group.out_of_memory_kills()
        return self._kills > before
