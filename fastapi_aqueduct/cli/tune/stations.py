"""The parts of a service that is simulated: its processes, and the ways of requests through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True)
class Station:
    """Processes of one kind.

    Attributes:
        name: What they are.
        processes: Their number.
        keeps: Whether all requests of a connection go to the same process, as with API processes; else the first that
            is free serves the next request, as with workers.
        batch_size: Largest batch of a process.
        places: Largest number of requests that a process works on side by side, each for itself.
    """

    name: str
    processes: int = 1
    keeps: bool = False
    batch_size: int = 1
    places: int = 1


class Work(NamedTuple):
    """The work of a process for a batch, or for one request.

    Attributes:
        seconds: Duration of the computation on that number of cores, in seconds.
        wait: Seconds of waiting before that, such as for a device. The process is not free meanwhile.
        cores: Number of cores used by the computation.
    """

    seconds: float
    wait: float = 0.0
    cores: float = 1.0


class Stop(Protocol):
    """A stop of a request on its way."""

    @property
    def station(self) -> str:
        """The name of the station."""

    def work(self, count: int) -> Work:
        """Return the work of a process.

        Args:
            count: Requests in the batch; of requests side by side, those in the process.
        """


@dataclass(frozen=True)
class Visit:
    """A stop at which each request takes the same time.

    Attributes:
        station: The name of a station.
        seconds: Processor time of a request there.
        wait: Seconds for which the process waits before that, as for a device, and is not free for others.
    """

    station: str
    seconds: float
    wait: float = 0.0

    def work(self, count: int) -> Work:
        """Return the work of a process for one request."""
        return Work(self.seconds, self.wait)


class Fork(NamedTuple):
    """Ways that a request goes side by side; it continues when all have ended.

    Attributes:
        branches: The ways.
    """

    branches: Sequence[Route]


Route = Sequence[Stop | Fork]
"""The way of a request: its stops, in their order."""
