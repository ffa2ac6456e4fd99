"""The cost of a thousand slow uploads for other clients."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .client import Client, Outcome, Request
from .report import Promise, Report, Series
from .subject import DEADLINE, Subject

ROUNDS = 5
SECONDS = 3
CONNECTIONS = (4, 16)
COUNT = 1000
SLOW_SIZE = 100_000
SIZE = 10_000
MOST = 1.5


def measure() -> Report:
    """Load one server in turns with and without the slow clients."""
    alone: list[list[Outcome]] = []
    beside: list[list[Outcome]] = []
    held: list[float] = []
    with _Server() as server, _ordinary() as request:
        server.load(request)
        for _ in range(ROUNDS):
            alone.append(server.load(request))
            with server.slow_clients():
                beside.append(server.load(request))
            server.wait_for(lambda receiving: receiving == 0)
            held.append(server.memory()["blocks"])
    failed = [float(sum(outcome.failed for outcome in outcomes)) for outcomes in [*alone, *beside]]
    return Report(
        title=f"slow clients: {COUNT:,} uploads of one byte a second each, beside ordinary ones",
        notes=[
            f"ordinary: {SIZE // 1000} kB through one step, {CONNECTIONS[0]} and {CONNECTIONS[1]} connections of wrk",
            f"slow: {SLOW_SIZE // 1000} kB announced; their endpoint has no least rate, else they were refused",
        ],
        rows=[*_rows("p99, ms", alone, beside, _p99), *_rows("requests per second", alone, beside, _rate)],
        promises=[
            *(Promise(_ratio(alone, beside, index, count), MOST) for index, count in enumerate(CONNECTIONS)),
            Promise(Series("ordinary requests that failed", failed), 0),
            Promise(Series("blocks held when the slow ones have gone", held), 0),
        ],
    )


def _p99(outcome: Outcome) -> float:
    return outcome.p99 * 1000


def _rate(outcome: Outcome) -> float:
    return outcome.rate


def _series(
    rounds: list[list[Outcome]], index: int, quantity: Callable[[Outcome], float], name: str = "", unit: str = ""
) -> Series:
    return Series(name, [quantity(outcomes[index]) for outcomes in rounds], digits=1, unit=unit)


def _ratio(alone: list[list[Outcome]], beside: list[list[Outcome]], index: int, count: int) -> Series:
    name = f"p99 beside slow uploads / alone, {count} connections"
    return _series(beside, index, _p99).over(_series(alone, index, _p99), name)


def _rows(
    unit: str, alone: list[list[Outcome]], beside: list[list[Outcome]], quantity: Callable[[Outcome], float]
) -> Iterator[Series]:
    for index, count in enumerate(CONNECTIONS):
        yield _series(alone, index, quantity, f"{count} connections, alone", unit)
        yield _series(beside, index, quantity, f"{count} connections, beside {COUNT:,} slow uploads", unit)


@contextlib.contextmanager
def _ordinary() -> Iterator[Request]:
    with tempfile.TemporaryDirectory() as directory:
        body = Path(directory, "body")
        body.write_bytes(os.urandom(SIZE))
        yield Request(SIZE, body, "application/octet-stream", "/upload")


class _Server:
    """The server in a process of its own."""

    def __init__(self) -> None:
        self._subject = Subject("-m", f"{__package__}.subjects.patient_server")
        self.port = 0

    def __enter__(self) -> _Server:
        self._subject.__enter__()
        self.port = self._subject.read()
        self.memory()  # answered as soon as it has started
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._subject.__exit__(*exc_info)

    def load(self, request: Request) -> list[Outcome]:
        """Send ordinary requests, over each number of connections."""
        return [Client(count, SECONDS).run(self.port, request) for count in CONNECTIONS]

    @contextlib.contextmanager
    def slow_clients(self) -> Iterator[None]:
        """Have the slow clients there, all of which have begun."""
        module = f"{__package__}.subjects.slow_clients"
        with Subject("-m", module, self.port, "/slow", COUNT, SLOW_SIZE) as clients:
            clients.read()
            self.wait_for(lambda receiving: receiving >= COUNT)
            yield
            if not clients.is_alive or self.memory()["receiving"] < COUNT:
                raise RuntimeError("slow clients were lost")

    def wait_for(self, condition: Callable[[int], bool]) -> None:
        """Wait for a number of bytes that are arriving: each slow client sends one a second."""
        deadline = time.monotonic() + DEADLINE
        while not condition(found := self.memory()["receiving"]):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{found} bytes are arriving")
            time.sleep(0.02)

    def memory(self) -> dict[str, Any]:
        """Ask what is held."""
        found: dict[str, Any] = Request({}, path="/memory").send(self.port)
        return found


if __name__ == "__main__":
    print(measure())
