"""Twenty uploads at once, which have more together than there is memory, beside the same one after the other."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from .client import Request
from .processes import MIB, tree
from .report import Promise, Report, Series
from .subject import DEADLINE, Subject

ROUNDS = int(os.environ.get("ROUNDS", "5"))
TURNS = 3
COUNT = 20
SIZE = 16 * MIB
LIMIT = 128 * MIB
LOOPS = ("asyncio", "uvloop")
LEAST = 0.9
TOGETHER, FIRST, APART = "at once", "at once, for the first time", "one after the other"
HOWS = (APART, TOGETHER, FIRST)


def measure() -> Report:
    """Start a server for each round: the first uploads at once find memory that no process has touched."""
    rates: dict[tuple[str, str], list[float]] = {(loop, how): [] for loop in LOOPS for how in HOWS}
    costs: dict[tuple[str, str], list[float]] = {key: [] for key in rates}
    faults: dict[tuple[str, str], list[float]] = {key: [] for key in rates}
    ratios: dict[tuple[str, str], list[float]] = {key: [] for key in rates}
    for _ in range(ROUNDS):
        for loop in LOOPS:
            with _Server(loop) as server:
                server.send_one_by_one(1)
                for turn in range(TURNS):
                    apart = server.measure(lambda: server.send_one_by_one(COUNT))
                    together = server.measure(lambda: server.send_at_once(COUNT))
                    how = TOGETHER if turn else FIRST
                    for name, found in ((APART, apart), (how, together)):
                        rates[loop, name].append(found.rate)
                        costs[loop, name].append(found.cost)
                        faults[loop, name].append(found.faults)
                    ratios[loop, how].append(together.rate / apart.rate)
    return Report(
        title=f"crowd: {COUNT} uploads of {SIZE // MIB} MiB at once, with {LIMIT // MIB} MiB of shared memory",
        notes=[
            "each upload on a connection of its own; all are answered 200",
            "uvicorn, one step, whose worker touches every page",
            "the processor time and the page faults are those of the server and the worker",
            f"a server for each round, which gets {TURNS} times both: what comes at once for the first time needs "
            "memory that the system has yet to give and to clear, page by page, and one upload after the other is "
            "written to the same",
        ],
        rows=[
            *_rows("MiB per second", rates, 0),
            *_rows("ms of the processor per MiB", costs, 2),
            *_rows("page faults", faults, 0),
        ],
        promises=[
            Promise(Series(f"{loop}: bytes per second {how} / {APART}", ratios[loop, how], 2), LEAST, is_minimum=True)
            for loop in LOOPS
            for how in (TOGETHER, FIRST)
        ],
    )


def _rows(unit: str, values: dict[tuple[str, str], list[float]], digits: int) -> list[Series]:
    return [Series(f"{loop}, {how}", found, digits, unit) for (loop, how), found in values.items()]


class _Measured(NamedTuple):
    """What was measured of some uploads.

    Attributes:
        rate: MiB per second.
        cost: Milliseconds of the processor for each MiB.
        faults: Page faults.
    """

    rate: float
    cost: float
    faults: int


class _Server:
    """A uvicorn server in a process of its own."""

    def __init__(self, loop: str) -> None:
        self._subject = Subject("-m", f"{__package__}.subjects.crowd_server", loop, LIMIT)
        self._body = bytes(SIZE)
        self._port = 0

    def __enter__(self) -> _Server:
        self._subject.__enter__()
        self._port = self._subject.read()
        Request({}, path="/ready").send(self._port)  # answered as soon as it has started
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._subject.__exit__(*exc_info)

    def measure(self, send: Callable[[], int]) -> _Measured:
        """Measure what it does with uploads."""
        used, faults, begun = *self._usage(), time.perf_counter()
        size = send() * SIZE / MIB
        seconds = time.perf_counter() - begun
        used_after, faults_after = self._usage()
        return _Measured(size / seconds, (used_after - used) / size * 1000, faults_after - faults)

    def send_one_by_one(self, count: int) -> int:
        """Send uploads, each when the one before it was answered."""
        for _ in range(count):
            self._send()
        return count

    def send_at_once(self, count: int) -> int:
        """Send uploads, all at the same time."""
        with ThreadPoolExecutor(count) as pool:
            for sent in [pool.submit(self._send) for _ in range(count)]:
                sent.result()
        return count

    def _send(self) -> None:
        head = f"POST /upload HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self._port), DEADLINE) as connection:
            connection.sendall(head.encode())
            connection.sendall(self._body)
            answer = b""
            while piece := connection.recv(1 << 16):
                answer += piece
        if not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(b"\r\n\r\n%d" % SIZE):
            raise RuntimeError(f"an upload was answered: {answer.decode(errors='replace')}")

    def _usage(self) -> tuple[float, int]:
        """Return the seconds of the processor, and the page faults, that its processes have had."""
        usages = [_usage(pid) for pid in tree(self._subject.pid)]
        return sum(ticks for ticks, _ in usages) / os.sysconf("SC_CLK_TCK"), sum(faults for _, faults in usages)


def _usage(pid: int) -> tuple[int, int]:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    # utime, stime and minflt: the 14th, the 15th and the 10th of all (proc(5))
    return int(fields[11]) + int(fields[12]), int(fields[7])


if __name__ == "__main__":
    print(measure())
