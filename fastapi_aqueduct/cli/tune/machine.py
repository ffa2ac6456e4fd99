"""What the machine does while something is measured: processor time of workers, waits for a core, other processes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from ...engine.system.cgroup import ControlGroup
from ...engine.system.cpu import available_cores

_TICKS = os.sysconf("SC_CLK_TCK")
_NANO = 1e-9
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)

MEMORY_SHARE = 0.8
"""Share of the available memory that workers may use."""


class WorkerClock(NamedTuple):
    """The times of a process since it began, in seconds.

    Attributes:
        cpu: Processor time of all its threads; None where the system does not tell.
        waits: The time that each thread waited for a core, by its id.
    """

    cpu: float | None
    waits: dict[str, float]

    @classmethod
    def read(cls, pid: int) -> Self:
        """Read the clocks of a process (clock_getcpuclockid(3), proc_schedstat; Linux only)."""
        waits: dict[str, float] = {}
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                waits[thread] = int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[1]) * _NANO
        except OSError:
            pass  # it has ended, or the kernel does not count
        try:
            return cls(time.clock_gettime((~pid << 3) | 2), waits)
        except OSError:
            return cls(None, waits)

    def cpu_since(self, before: WorkerClock) -> float | None:
        """Return the processor time since another reading."""
        return None if self.cpu is None or before.cpu is None else self.cpu - before.cpu

    def waits_since(self, before: WorkerClock) -> list[float]:
        """Return how long each thread has waited for a core since another reading."""
        return [value - before.waits.get(thread, 0.0) for thread, value in self.waits.items()]


class CoreUse(NamedTuple):
    """How the cores were used.

    Attributes:
        own: Seconds of processor time of this process.
        workers: Seconds of processor time of the workers.
        foreign: Cores that other processes used; 0 where that is not known.
        speed: How fast the cores were for this process and the workers: 1 unless other processes used them, too.
        seconds: For how long they were.
    """

    own: float
    workers: float
    foreign: float
    speed: float
    seconds: float


class Usage:
    """The use of the cores from the moment when it is made.

    Args:
        pids: The processes that belong to what is measured, beside this one.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._clocks = {pid: WorkerClock.read(pid) for pid in (os.getpid(), *pids)}
        self._own = time.process_time()
        self._all = _busy_time()
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._since

    def read(self) -> CoreUse:
        """Return what has happened since then."""
        own = time.process_time() - self._own
        clocks = [(WorkerClock.read(pid), before, pid) for pid, before in self._clocks.items()]
        workers = sum(now.cpu_since(before) or 0.0 for now, before, pid in clocks if pid != os.getpid())
        waits = sum(sum(now.waits_since(before)) for now, before, _ in clocks)
        seconds = self.seconds or 1e-9
        foreign = 0.0
        if self._all is not None:
            foreign = max(0.0, ((_busy_time() or 0.0) - self._all - own - workers) / seconds)
        return CoreUse(own, workers, foreign, _speed(own + workers, waits, seconds, foreign), seconds)


def _busy_time() -> float | None:
    """Return the seconds for which cores of the machine have worked, all together; None if it is not known."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / _TICKS


def _speed(used: float, waits: float, seconds: float, foreign: float) -> float:
    """Return how fast the cores were for a flow, as a part of their full speed.

    Its processes got a core for a part of the time in which they wanted one. If they wanted more cores than there are,
    they have waited for each other; the rest is due to other processes. These cannot have taken more than they used.
    """
    cores = available_cores()
    got = used / (used + waits) if used else 1.0
    wanted = (used + waits) / seconds
    left = (os.cpu_count() or cores) - foreign
    return min(1.0, max(got * max(1.0, wanted / cores), left / cores))


def free_memory() -> int | None:
    """Return the bytes that workers may have in addition to what is used now; None if it is not known."""
    try:
        found = _AVAILABLE.search(Path("/proc/meminfo").read_text())
    except OSError:
        return None
    limits = [int(found[1]) * 1024] if found else []
    left = ControlGroup().free_memory()
    if left is not None:
        limits.append(left)
    return int(min(limits) * MEMORY_SHARE) if limits else None
