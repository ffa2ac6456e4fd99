"""A service in simulated time: requests go from process to process, and processes share the cores of a machine.

A process works on one request at a time, on a batch, or on several side by side. The processes that have work divide
the cores evenly, as Linux does, and each gets no more than it can use.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from .prediction import Prediction
from .stations import Fork, Route, Station, Stop

WARM_UP = 0.1
"""The share of the requests that is not counted: the queues begin empty."""


class Service:
    """What is simulated.

    Args:
        stations: The processes.
        route: The way of each request.
        cores: How many processes compute at the same time; not a whole number where others use the machine, too.
        further: The ways of other requests: they take turns.
    """

    def __init__(
        self, stations: Sequence[Station], route: Route, cores: float, further: Sequence[Route] = ()
    ) -> None:
        self._stations = stations
        self._routes = (route, *further)
        self._cores = cores

    def serve_connections(self, count: int, requests: int) -> Prediction:
        """Send requests over connections, each as soon as the one before it is answered.

        Args:
            count: The number of connections.
            requests: How many requests.
        """
        run = _Run(self._stations, self._routes, self._cores)
        for number in range(count):
            run.begin(number)
        run.settle()
        while len(run.times) < requests:
            run.advance()
            for answered in run.answered():
                run.begin(answered)
            run.settle()
        return run.prediction(skipped=count, connections=count)

    def serve_arrivals(self, rate: float, requests: int, seed: int) -> Prediction:
        """Send requests at random moments, independent of each other.

        Args:
            rate: Requests per second.
            requests: How many requests.
            seed: Of the random moments.
        """
        run = _Run(self._stations, self._routes, self._cores)
        moments = random.Random(seed)
        arrival = moments.expovariate(rate)
        for number in itertools.count():
            while run.advance(until=arrival):
                run.settle()
            if len(run.times) >= requests:
                return run.prediction()
            run.begin(number)
            run.settle()
            arrival += moments.expovariate(rate)
        raise AssertionError


@dataclass
class _Request:
    """A request, or one of its branches.

    Attributes:
        connection: Its connection.
        begun: When it came.
        route: Its way.
        parent: The request of which it is a branch.
        visits: The stops and forks that it has come to.
        branches: Its branches that have not ended.
    """

    connection: int
    begun: float
    route: Route
    parent: _Request | None = None
    visits: int = 0
    branches: int = 0


@dataclass
class _Queue:
    """The processes that serve one queue of a station.

    Attributes:
        station: The station.
        free: The places of each process that are free.
        waiting: The requests that wait, each with what it wants.
    """

    station: Station
    free: list[int]
    waiting: deque[tuple[Stop, _Request]] = field(default_factory=deque)

    def take_batch(self) -> tuple[Stop, Sequence[_Request]]:
        """Remove the request that has waited longest, and as many with the same stop as fit into its batch."""
        stop, first = self.waiting.popleft()
        batch, others = [first], []
        while self.waiting and len(batch) < self.station.batch_size:
            other = self.waiting.popleft()
            if other[0] is stop:
                batch.append(other[1])
            else:
                others.append(other)
        self.waiting.extendleft(reversed(others))
        return stop, batch


class _Unit(NamedTuple):
    """What a process works on at a time: one request, or a batch."""

    queue: _Queue
    process: int
    cores: float
    requests: Sequence[_Request]


class _Run:
    """One simulation.

    All processes that compute are equally fast, so one clock serves them: the processor time that each of them has got
    since the beginning for each core that it can use. A process ends its work at a fixed moment of that clock, however
    many others begin meanwhile.

    Args:
        stations: The processes.
        routes: The ways of requests, in turns.
        cores: How many processes compute at the same time.
    """

    def __init__(self, stations: Sequence[Station], routes: Sequence[Route], cores: float) -> None:
        self._stations = stations
        self._routes = itertools.cycle(routes)
        self._cores = cores
        self._queues = {
            station.name: [
                _Queue(station, [station.places] * (1 if station.keeps else station.processes))
                for _ in range(station.processes if station.keeps else 1)
            ]
            for station in stations
        }
        self._now = self._work = 0.0
        self._computing: list[tuple[float, int, _Unit]] = []  # by the end of their work
        self._delayed: list[tuple[float, int, float, _Unit]] = []  # by the end of their wait
        self._order = itertools.count()
        self._ended: list[_Request] = []
        self._fed: list[_Queue] = []  # those that may have both requests and free processes
        self._used = dict.fromkeys(self._queues, 0.0)
        self._demand = 0.0
        self._busy = dict.fromkeys(self._queues, 0.0)
        self.times: list[float] = []
        self._answers: list[float] = []

    def begin(self, connection: int) -> None:
        """Let a request come. `settle` must follow, when all that come at this moment have."""
        self._go_on(_Request(connection, self._now, next(self._routes)))

    def settle(self) -> None:
        """Give the requests that wait to the processes that are free."""
        while self._fed:
            queue = self._fed.pop()
            while queue.waiting and any(queue.free):
                self._serve(queue)

    def advance(self, until: float = inf) -> bool:
        """Go on to the moment at which a process ends its wait or its work, or to the given one if that is earlier.

        Returns:
            Whether a process has ended one.
        """
        speed = min(1.0, self._cores / self._demand) if self._computing else 1.0
        end = self._now + (self._computing[0][0] - self._work) / speed if self._computing else inf
        delay = self._delayed[0][0] if self._delayed else inf
        self._pass_time(min(end, delay, until), speed)
        if min(end, delay) > until:
            return False
        if delay < end:
            _, _, seconds, unit = heapq.heappop(self._delayed)
            self._compute(seconds, unit)
        else:
            self._finish(heapq.heappop(self._computing)[2])
        return True

    def answered(self) -> list[int]:
        """Return the connections whose requests have been answered since the last call."""
        ended, self._ended = self._ended, []
        return [request.connection for request in ended]

    def prediction(self, skipped: int = 0, connections: int = 0) -> Prediction:
        """Return what came out.

        Args:
            skipped: Answers that do not count, at least: the first request of a connection finds queues that fill.
            connections: Those whose requests follow each other at once. Then the rate follows from the mean (Little's
                law), as answers that come in bursts, those of batches, cannot be counted in some time.
        """
        skipped = min(max(skipped, int(len(self.times) * WARM_UP)), len(self.times) // 2)
        times = self.times[skipped:]
        mean = sum(times) / len(times)
        rate = (len(times) - 1) / (self._answers[-1] - self._answers[skipped] or inf)
        if connections and mean:
            rate = connections / mean
        shares = {
            station.name: self._busy[station.name] / self._now / station.processes for station in self._stations
        }
        return Prediction(rate, mean, sorted(times), shares)

    def _pass_time(self, moment: float, speed: float) -> None:
        worked = (moment - self._now) * speed
        for name, cores in self._used.items():
            self._busy[name] += cores * worked
        self._work += worked
        self._now = moment

    def _finish(self, unit: _Unit) -> None:
        self._use(unit, -unit.cores)
        unit.queue.free[unit.process] += 1
        self._fed.append(unit.queue)
        for request in unit.requests:
            self._go_on(request)

    def _go_on(self, request: _Request) -> None:
        if request.visits == len(request.route):
            self._end(request)
            return
        visit = request.route[request.visits]
        request.visits += 1
        if isinstance(visit, Fork):
            request.branches = len(visit.branches)
            for branch in visit.branches:
                self._go_on(_Request(request.connection, self._now, branch, request))
            return
        queues = self._queues[visit.station]
        queue = queues[request.connection % len(queues)]
        queue.waiting.append((visit, request))
        self._fed.append(queue)

    def _end(self, request: _Request) -> None:
        if request.parent is None:
            self.times.append(self._now - request.begun)
            self._answers.append(self._now)
            self._ended.append(request)
            return
        request.parent.branches -= 1
        if not request.parent.branches:
            self._go_on(request.parent)

    def _serve(self, queue: _Queue) -> None:
        process = max(range(len(queue.free)), key=queue.free.__getitem__)
        visit, requests = queue.take_batch()
        queue.free[process] -= 1
        beside = queue.station.places - queue.free[process]
        seconds, wait, cores = visit.work(max(len(requests), beside))
        unit = _Unit(queue, process, cores / beside, requests)
        if wait:
            heapq.heappush(self._delayed, (self._now + wait, next(self._order), seconds, unit))
        else:
            self._compute(seconds, unit)

    def _compute(self, seconds: float, unit: _Unit) -> None:
        self._use(unit, unit.cores)
        heapq.heappush(self._computing, (self._work + seconds, next(self._order), unit))

    def _use(self, unit: _Unit, cores: float) -> None:
        self._used[unit.queue.station.name] += cores
        # Summed anew: the rounding errors of many changes would add up.
        self._demand = sum(self._used.values())
