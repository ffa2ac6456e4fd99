"""A service in simulated time: requests go from process to process, and processes share the cores of a machine.

A process works on one request at a time, for a constant time. The processes that have work divide the cores evenly, as
Linux does, and each gets one core at most.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import quantiles

WARM_UP = 0.1
"""The share of the requests that is not counted: the queues begin empty."""


@dataclass(frozen=True)
class Station:
    """Processes of one kind.

    Attributes:
        name: What they are.
        processes: Their number.
        keeps: Whether all requests of a connection go to the same process, as with API processes; else the first that
            is free serves the next request, as with workers.
    """

    name: str
    processes: int = 1
    keeps: bool = False


@dataclass(frozen=True)
class Visit:
    """A stop of each request on its way.

    Attributes:
        station: The name of a station.
        seconds: The processor time that the request takes there.
        wait: Seconds for which the process waits before that, as for a device, and is not free for others.
    """

    station: str
    seconds: float
    wait: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """What came out.

    Attributes:
        rate: Answers per second.
        mean: The mean of the seconds from the beginning of a request to its end.
        p99: The 99th percentile of them.
        busy: The share of the time that the processes of each station computed, by its name.
    """

    rate: float
    mean: float
    p99: float
    busy: dict[str, float]


class Service:
    """What is simulated.

    Args:
        stations: The processes.
        route: The stops of each request, in their order.
        cores: How many processes compute at the same time; not a whole number where others use the machine, too.
    """

    def __init__(self, stations: Sequence[Station], route: Sequence[Visit], cores: float) -> None:
        self._stations = stations
        self._route = route
        self._cores = cores

    def serve_connections(self, count: int, requests: int) -> Prediction:
        """Send requests over connections, each as soon as the one before it is answered.

        Args:
            count: The number of connections.
            requests: How many requests.
        """
        run = _Run(self._stations, self._route, self._cores)
        for number in range(count):
            run.begin(number)
        while len(run.times) < requests:
            run.advance()
            for answered in run.answered():
                run.begin(answered)
        return run.prediction()

    def serve_arrivals(self, rate: float, requests: int, seed: int) -> Prediction:
        """Send requests at random moments, independent of each other.

        Args:
            rate: Requests per second.
            requests: How many requests.
            seed: Of the random moments.
        """
        run = _Run(self._stations, self._route, self._cores)
        moments = random.Random(seed)
        arrival = moments.expovariate(rate)
        for number in itertools.count():
            while run.advance(until=arrival):
                pass
            if len(run.times) >= requests:
                return run.prediction()
            run.begin(number)
            arrival += moments.expovariate(rate)
        raise AssertionError


@dataclass
class _Request:
    connection: int
    begun: float
    visits: int = 0


@dataclass
class _Queue:
    """The processes that serve one queue of a station."""

    station: str
    idle: int
    waiting: deque[tuple[Visit, _Request]] = field(default_factory=deque)


class _Run:
    """One simulation.

    All processes that compute are equally fast, so one clock serves them: the processor time that each of them has got
    since the beginning. A process ends its work at a fixed moment of that clock, however many others begin meanwhile.

    Args:
        stations: The processes.
        route: The stops of each request.
        cores: How many processes compute at the same time.
    """

    def __init__(self, stations: Sequence[Station], route: Sequence[Visit], cores: float) -> None:
        self._stations = stations
        self._route = route
        self._cores = cores
        self._queues = {
            station.name: [
                _Queue(station.name, 1 if station.keeps else station.processes)
                for _ in range(station.processes if station.keeps else 1)
            ]
            for station in stations
        }
        self._now = self._work = 0.0
        self._computing: list[tuple[float, int, _Queue, _Request]] = []  # by the end of their work
        self._delayed: list[tuple[float, int, float, _Queue, _Request]] = []  # by the end of their wait
        self._order = itertools.count()
        self._ended: list[_Request] = []
        self._processes = dict.fromkeys(self._queues, 0)
        self._busy = dict.fromkeys(self._queues, 0.0)
        self.times: list[float] = []
        self._answers: list[float] = []

    def begin(self, connection: int) -> None:
        """Let a request come."""
        self._go_on(_Request(connection, self._now))

    def advance(self, until: float = inf) -> bool:
        """Go on to the moment at which a process ends its wait or its work, or to the given one if that is earlier.

        Returns:
            Whether a process has ended one.
        """
        speed = min(1.0, self._cores / len(self._computing)) if self._computing else 1.0
        end = self._now + (self._computing[0][0] - self._work) / speed if self._computing else inf
        delay = self._delayed[0][0] if self._delayed else inf
        self._pass_time(min(end, delay, until), speed)
        if min(end, delay) > until:
            return False
        if delay < end:
            _, _, seconds, queue, request = heapq.heappop(self._delayed)
            self._compute(queue, seconds, request)
        else:
            self._finish(*heapq.heappop(self._computing)[2:])
        return True

    def answered(self) -> list[int]:
        """Return the connections whose requests have been answered since the last call."""
        ended, self._ended = self._ended, []
        return [request.connection for request in ended]

    def prediction(self) -> Prediction:
        """Return what came out."""
        skipped = int(len(self.times) * WARM_UP)
        times = self.times[skipped:]
        rate = (len(times) - 1) / (self._answers[-1] - self._answers[skipped])
        shares = {
            station.name: self._busy[station.name] / self._now / station.processes for station in self._stations
        }
        return Prediction(rate, sum(times) / len(times), quantiles(times, n=100)[98], shares)

    def _pass_time(self, moment: float, speed: float) -> None:
        worked = (moment - self._now) * speed
        for name, count in self._processes.items():
            self._busy[name] += count * worked
        self._work += worked
        self._now = moment

    def _finish(self, queue: _Queue, request: _Request) -> None:
        self._processes[queue.station] -= 1
        queue.idle += 1
        if queue.waiting:
            self._serve(queue, *queue.waiting.popleft())
        self._go_on(request)

    def _go_on(self, request: _Request) -> None:
        if request.visits == len(self._route):
            self.times.append(self._now - request.begun)
            self._answers.append(self._now)
            self._ended.append(request)
            return
        visit = self._route[request.visits]
        request.visits += 1
        queues = self._queues[visit.station]
        queue = queues[request.connection % len(queues)]
        if queue.idle:
            self._serve(queue, visit, request)
        else:
            queue.waiting.append((visit, request))

    def _serve(self, queue: _Queue, visit: Visit, request: _Request) -> None:
        queue.idle -= 1
        if visit.wait:
            end = self._now + visit.wait
            heapq.heappush(self._delayed, (end, next(self._order), visit.seconds, queue, request))
        else:
            self._compute(queue, visit.seconds, request)

    def _compute(self, queue: _Queue, seconds: float, request: _Request) -> None:
        self._processes[queue.station] += 1
        heapq.heappush(self._computing, (self._work + seconds, next(self._order), queue, request))
