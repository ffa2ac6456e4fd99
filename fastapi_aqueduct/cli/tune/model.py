"""The model of a flow: predicts its throughput and times from the costs of its steps and the use of the cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from .costs import StepCosts
from .goal import Load
from .prediction import Prediction
from .simulation import Service
from .stations import Fork, Route, Station, Stop, Visit, Work
from .way import Way, names_on

API_PROCESS = "the API process"
CORES = "the cores"
REQUESTS = 1000
"""Requests of one simulation, unless there are more callers."""

SEED = 28


class StepSettings(NamedTuple):
    """The settings of a step.

    Attributes:
        nprocs: Its workers.
        size: The most tasks of a batch, or calls side by side in each worker.
        threads: Threads of numeric libraries in each worker.
    """

    nprocs: int
    size: int
    threads: int


Settings = Mapping[str, StepSettings]
"""Those of each step that was measured, by its name."""


class Capacity(NamedTuple):
    """The most tasks per second of a flow.

    Attributes:
        rate: The number.
        bottleneck: What limits it: the name of a step, `API_PROCESS` or `CORES`.
        limits: What each of them would allow.
    """

    rate: float
    bottleneck: str
    limits: Mapping[str, float]


@dataclass(frozen=True)
class _StepVisit:
    """A visit of a task to a step."""

    costs: StepCosts
    threads: int
    slowdown: float
    speed: float
    _works: dict[int, Work] = field(default_factory=dict)  # a simulation asks again and again

    @property
    def station(self) -> str:
        return self.costs.name

    def work(self, count: int) -> Work:
        found = self._works.get(count)
        if found is None:
            work = self.costs.work(self.threads, count, self.slowdown)
            found = self._works[count] = work._replace(seconds=work.seconds / self.speed)
        return found


@dataclass(frozen=True)
class FlowModel:
    """What is known of a flow and of the machine.

    Attributes:
        steps: Its steps that were measured, in order.
        routes: The way of each sample.
        dispatch: Seconds of processor time that the API process needs for a task.
        cores: Cores of the machine, without those that other processes use.
        memory: Bytes that all workers may use; None: no limit.
        keys: For each step whose batches depend on keys, the key of each sample.
    """

    steps: Sequence[StepCosts]
    routes: Sequence[Way]
    dispatch: float
    cores: float
    memory: int | None = None
    keys: Mapping[str, Sequence[bytes]] = field(default_factory=dict)

    def visits(self, name: str) -> float:
        """Return the part of the tasks that visit a step."""
        return self._visits[name]

    @cached_property
    def _visits(self) -> Mapping[str, float]:
        visited = [names_on(way) for way in self.routes]
        return {step.name: sum(step.name in names for names in visited) / len(visited) for step in self.steps}

    def slowdowns(self, settings: Settings) -> Mapping[str, float]:
        """Return, for each step, the time of a call divided by that of a single call.

        Workers that compute slow each other down.
        """
        pairs = self._pairs(settings)
        computing = sum(own.nprocs * own.threads for step, own in pairs if step.computes(own.threads))
        return {
            step.name: step.slowdown(computing if step.computes(own.threads) else own.nprocs) for step, own in pairs
        }

    def processor_time(self, settings: Settings) -> float:
        """Return the processor time of a task in all processes, in seconds."""
        return self._processor_time(settings, self.slowdowns(settings))

    def _processor_time(self, settings: Settings, slowdowns: Mapping[str, float]) -> float:
        return self.dispatch + sum(
            self.visits(step.name) * step.cpu(own.threads, own.size, slowdowns[step.name]) / own.size
            for step, own in self._pairs(settings)
        )

    def memory_of(self, settings: Settings) -> int:
        """Return the memory of all workers in bytes."""
        return sum(own.nprocs * step.curves[own.threads].memory(own.size) for step, own in self._pairs(settings))

    def capacity(self, settings: Settings) -> Capacity:
        """Return the most tasks per second, and what limits them."""
        limits = {API_PROCESS: 1 / self.dispatch} if self.dispatch else {}
        slowdowns = self.slowdowns(settings)
        limits[CORES] = self.cores / (self._processor_time(settings, slowdowns) or 1e-9)
        for step, own in self._pairs(settings):
            seconds = step.curves[own.threads].seconds(own.size) * slowdowns[step.name]
            limits[step.name] = own.nprocs * own.size / seconds / (self.visits(step.name) or 1.0)
        bottleneck = min(limits, key=limits.__getitem__)
        return Capacity(limits[bottleneck], bottleneck, limits)

    def predict(
        self, settings: Settings, load: Load, speed: float = 1.0, requests: int = REQUESTS
    ) -> Prediction:
        """Simulate a load.

        Args:
            settings: The settings of each step.
            load: The load.
            speed: How fast the cores are, as a part of their speed on an idle machine.
            requests: Number of simulated requests.
        """
        stations = [Station(API_PROCESS)]
        stops: list[dict[str, Stop]] = [{} for _ in self.routes]
        slowdowns = self.slowdowns(settings)
        for step, own in self._pairs(settings):
            batch_size, places = (1, own.size) if step.is_side_by_side else (own.size, 1)
            stations.append(Station(step.name, own.nprocs, batch_size=batch_size, places=places))
            keys = self.keys.get(step.name, [b""] * len(stops))
            # Requests with the same stop share batches.
            by_key = {key: _StepVisit(step, own.threads, slowdowns[step.name], speed) for key in keys}
            for key, of_sample in zip(keys, stops, strict=True):
                of_sample[step.name] = by_key[key]
        routes = [self._route(way, own, self.dispatch / speed) for way, own in zip(self.routes, stops, strict=True)]
        service = Service(stations, routes[0], self.cores, routes[1:])
        if load.callers:
            return service.serve_connections(load.callers, load.callers + max(requests, load.callers))
        return service.serve_arrivals(load.rate, requests, SEED)

    def saturating(self, settings: Settings) -> Load:
        """Return a load that keeps all workers busy: each has a batch in hand and one that waits."""
        return Load(callers=2 * sum(own.nprocs * own.size for own in settings.values()))

    def _route(self, way: Way, stops: Mapping[str, Stop], dispatch: float) -> Route:
        passage = Visit(API_PROCESS, dispatch / (len(names_on(way)) + 1))
        return [passage, *_stops_on(way, stops, passage)]

    def _pairs(self, settings: Settings) -> list[tuple[StepCosts, StepSettings]]:
        return [(step, settings[step.name]) for step in self.steps]


def _stops_on(way: Way, stops: Mapping[str, Stop], passage: Stop) -> list[Stop | Fork]:
    route: list[Stop | Fork] = []
    for part in way:
        if isinstance(part, str):
            route += [stops[part], passage]
        else:
            route.append(Fork([_stops_on(branch, stops, passage) for branch in part]))
    return route
