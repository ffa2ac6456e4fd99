"""Candidates: the settings from which a recommendation chooses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from math import ceil, prod

from .costs import StepCosts
from .model import FlowModel, Settings, StepSettings

COMBINATIONS = 400
"""Largest number of combinations of sizes and threads that are compared."""

Option = tuple[int, int]
"""Threads and size."""


def combinations(model: FlowModel) -> Iterator[Sequence[Option]]:
    """Yield threads and size of each step. If there are too many, the largest size of each step is among them."""
    choices = [_options(step) for step in model.steps]
    while prod(map(len, choices)) > COMBINATIONS:
        longest = max(choices, key=len)
        longest.pop((len(longest) - 1) // 2)
    yield from itertools.product(*choices)


def _options(step: StepCosts) -> list[Option]:
    """List threads and sizes of which none is worse than another in all respects."""
    found: dict[Option, tuple[float, ...]] = {}
    for threads, curve in step.curves.items():
        for point in curve.points:
            if point.size <= curve.knee.size:
                found[threads, point.size] = (point.cpu / point.size, point.seconds / point.size, point.seconds)
    return [
        option
        for option, costs in found.items()
        if not any(
            other != costs and all(mine >= its for mine, its in zip(costs, other, strict=True))
            for other in found.values()
        )
    ]


def sized(model: FlowModel, options: Sequence[Option], rate: float, headroom: float) -> Settings:
    """Return settings with enough workers in each step for a rate.

    Args:
        model: The model of the flow.
        options: Threads and size of each step.
        rate: Tasks per second.
        headroom: Planned load of a worker, as a share of its capacity.
    """
    workers = []
    for step, (threads, size) in zip(model.steps, options, strict=True):
        seconds = step.curves[threads].seconds(size) / size * max(step.slowdowns.values())
        needed = rate * model.visits(step.name) * seconds / headroom
        workers.append(min(max(1, ceil(needed)), step.most_workers))
    return _with_workers(model, options, workers)


def _with_workers(model: FlowModel, options: Sequence[Option], workers: Sequence[int]) -> Settings:
    return {
        step.name: StepSettings(count, size, threads)
        for step, (threads, size), count in zip(model.steps, options, workers, strict=True)
    }


def grown(model: FlowModel, options: Sequence[Option]) -> Iterator[tuple[Settings, float]]:
    """Yield settings and their capacity, with ever more workers: one more in the slowest step, as long as that helps.

    If the cores are the bottleneck, the last settings have one worker more: it computes while another one waits.

    Args:
        model: The model of the flow.
        options: Threads and size of each step.
    """
    settings = _with_workers(model, options, [1] * len(options))
    while True:
        capacity = model.capacity(settings)
        yield settings, capacity.rate
        limits = capacity.limits
        slowest = min(model.steps, key=lambda step: limits[step.name])
        own = settings[slowest.name]
        more = {**settings, slowest.name: own._replace(nprocs=own.nprocs + 1)}
        if own.nprocs == slowest.most_workers or not fits(model, more):
            return
        if capacity.bottleneck != slowest.name:
            yield more, model.capacity(more).rate
            return
        settings = more


def fits(model: FlowModel, settings: Settings) -> bool:
    """Return whether there is memory for the workers."""
    return model.memory is None or model.memory_of(settings) <= model.memory


def extent(model: FlowModel, settings: Settings) -> tuple[float, ...]:
    """Return a sort key for the size of settings: workers and threads, then memory, then batches."""
    return (
        sum(own.nprocs * own.threads for own in settings.values()),
        model.memory_of(settings),
        sum(own.size for own in settings.values()),
        model.processor_time(settings),
    )
