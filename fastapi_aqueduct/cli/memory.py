"""The private memory of a process. Workers import this: it needs nothing that they do not have."""

from __future__ import annotations

import re
from pathlib import Path

from ..engine.system.process_memory import private_memory

_ANONYMOUS = re.compile(r"^Pss_Anon:\s+(\d+) kB", re.MULTILINE)


def own_part(pid: int) -> int | None:
    """Return the bytes of memory that a process has for itself, and its share of what it has in common with its parent.

    A worker that is forked from a template has the memory of the template until one of the two writes to it.

    None where the system does not tell (proc_pid_smaps_rollup(5) is Linux only), or the process is gone.
    """
    try:
        found = _ANONYMOUS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else private_memory(pid)
