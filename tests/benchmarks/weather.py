"""How the machine was while something was measured: a virtual one has good and bad hours.

What sleeps and wakes depends on it more than on anything that is compared here.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

EXCHANGES = 3000
IDLE, WAITING, STOLEN = 3, 4, 7
"""Columns of proc_stat(5)."""


@dataclass(frozen=True)
class Weather:
    """A look at the machine.

    Attributes:
        exchange: Median of the seconds in which a byte goes to a process that sleeps, and comes back.
        times: Ticks the processors have spent in each state.
        load: The load average of the last minute.
    """

    exchange: float
    times: list[int]
    load: float

    @classmethod
    def now(cls) -> Self:
        """Take a look."""
        times = [int(ticks) for ticks in Path("/proc/stat").read_text().split()[1:9]]
        return cls(_exchange(), times, os.getloadavg()[0])

    def until(self, later: Weather) -> str:
        """Say what it was like between two looks."""
        ticks = [after - before for before, after in zip(self.times, later.times, strict=True)]
        wanted = sum(ticks) - ticks[IDLE] - ticks[WAITING]
        return (
            f"A byte to a process that sleeps and back: {self.exchange * 1e6:.0f} us before, "
            f"{later.exchange * 1e6:.0f} us after; the hypervisor stole {ticks[STOLEN] / max(wanted, 1):.1%} of the "
            f"processor time that was wanted meanwhile; a load average of {self.load:.1f} before"
        )


def _exchange() -> float:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        ours.close()
        while byte := theirs.recv(1):
            theirs.send(byte)
        os._exit(0)
    theirs.close()
    times = []
    with ours:
        for _ in range(EXCHANGES):
            started = time.perf_counter()
            ours.send(b"x")
            ours.recv(1)
            times.append(time.perf_counter() - started)
    os.waitpid(pid, 0)
    return median(times)
