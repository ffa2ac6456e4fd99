"""The model of a flow: what settings give, by what its steps cost and by how many share the cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
"""Requests of one simulation."""

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

    @property
    def station(self) -> str:
        return self.costs.name

    def work(self, count: int) -> Work:
        work = self.costs.work(self.threads, count, self.slowdown)
        return work._replace(seconds=work.seconds / self.speed)


@dataclass(frozen=True)
class FlowModel:
    """What is known of a flow and of the machine.

    Attributes:
        steps: Its steps that were measured, in order.
        routes: The way of each sample.
        dispatch: Seconds of processor time that the API process needs for a task.
        cores: Cores of the machine, without those that other processes use.
        memory: Bytes that workers may have in total; None: any.
    """

    steps: Sequence[StepCosts]
    routes: Sequence[Way]
    dispatch: float
    cores: float
    memory: int | None = None

    def visits(self, name: str) -> float:
        """Return the part of the tasks that visit a step."""
        return self._visits[name]

    @cached_property
    def _visits(self) -> Mapping[str, float]:
        visited = [names_on(way) for way in self.routes]
        return {step.name: sum(step.name in names for names in visited) / len(visited) for step in self.steps}

    def slowdown(self, step: StepCosts, settings: Settings) -> float:
        """Return by what the calls of a step are slower than single ones: workers that compute slow each other down."""
        own = settings[step.name]
        if not step.computes(own.threads):
            return step.slowdown(own.nprocs)
        pairs = self._pairs(settings)
        return step.slowdown(sum(each.nprocs * each.threads for other, each in pairs if other.computes(each.threads)))

    def processor_time(self, settings: Settings) -> float:
        """Return the seconds of processor time that a task needs in all processes."""
        return self.dispatch + sum(
            self.visits(step.name) * step.cpu(own.threads, own.size, self.slowdown(step, settings)) / own.size
            for step, own in self._pairs(settings)
        )

    def memory_of(self, settings: Settings) -> int:
        """Return the bytes that the workers have in total."""
        return sum(own.nprocs * step.curves[own.threads].memory(own.size) for step, own in self._pairs(settings))

    def capacity(self, settings: Settings) -> Capacity:
        """Return the most tasks per second, and what limits them."""
        limits = {API_PROCESS: 1 / self.dispatch} if self.dispatch else {}
        limits[CORES] = self.cores / (self.processor_time(settings) or 1e-9)
        for step, own in self._pairs(settings):
            seconds = step.curves[own.threads].seconds(own.size) * self.slowdown(step, settings)
            limits[step.name] = own.nprocs * own.size / seconds / (self.visits(step.name) or 1.0)
        bottleneck = min(limits, key=limits.__getitem__)
        return Capacity(limits[bottleneck], bottleneck, limits)

    def predict(self, settings: Settings, load: Load, speed: float = 1.0) -> Prediction:
        """Simulate a load.

        Args:
            settings: The settings of each step.
            load: The load.
            speed: How fast the cores are, as a part of their speed on an idle machine.
        """
        stations = [Station(API_PROCESS)]
        stops: dict[str, Stop] = {}
        for step, own in self._pairs(settings):
            batch_size, places = (1, own.size) if step.is_side_by_side else (own.size, 1)
            stations.append(Station(step.name, own.nprocs, batch_size=batch_size, places=places))
            stops[step.name] = _StepVisit(step, own.threads, self.slowdown(step, settings), speed)
        routes = [self._route(way, stops, self.dispatch / speed) for way in self.routes]
        service = Service(stations, routes[0], self.cores, routes[1:])
        if load.callers:
            return service.serve_connections(load.callers, load.callers + max(REQUESTS, load.callers))
        return service.serve_arrivals(load.rate, REQUESTS, SEED)

    def saturating(self, settings: Settings) -> Load:
        """Return as many callers as keep all workers busy: one batch in hand, and one that waits."""
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
