"""The memory and the processor time of a tree of processes (Linux: proc(5))."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

MIB = 1 << 20


class Footprint:
    """How much memory processes use together, every page counted once.

    Private and file-backed pages are summed up by their PSS. Shared memory is counted as the larger of its PSS and of
    what the anonymous files behind it have allocated: a page that no process has mapped at the moment exists too.

    Args:
        pids: The processes.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self.private = 0
        self.shared_mapped = 0
        self._files: dict[tuple[int, int], int] = {}
        for pid in pids:
            sizes = _rollup(pid)
            self.private += sizes["Pss_Anon"] + sizes["Pss_File"]
            self.shared_mapped += sizes["Pss_Shmem"]
            self._files |= anonymous_files(pid)

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return max(self.shared_mapped, sum(self._files.values()))

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return self.private + self.shared


def tree(pid: int) -> list[int]:
    """List a process and all its descendants."""
    found = [pid]
    for parent in found:
        for thread in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def processor_time(pids: Iterable[int]) -> float:
    """Return the seconds that all threads of processes have computed, those that have ended included."""
    # The clock that clock_getcpuclockid(3) names: to the nanosecond, where proc(5) counts hundredths of a second.
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def _rollup(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(size.split()[0]) * 1024 for name, size in (line.split(":") for line in lines)}


def anonymous_files(pid: int) -> dict[tuple[int, int], int]:
    """Return the bytes that each memfd of a process has allocated."""
    sizes: dict[tuple[int, int], int] = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(descriptor).startswith("/memfd:"):
                status = descriptor.stat()
                sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
        except FileNotFoundError:
            continue  # closed meanwhile
    return sizes
