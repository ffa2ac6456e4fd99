"""Chooses settings: the smallest that reach a goal, by the model of a flow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from .costs import StepCosts
from .goal import Goal, Load, Objective
from .model import Capacity, FlowModel, Settings, StepSettings, longest
from .simulation import Prediction

HEADROOM = 0.8
"""The part of its capacity that a step is planned for where tasks arrive at random: beyond it, queues grow quickly."""

NEARLY = 0.97
"""The part of the highest throughput that counts as equal: then fewer workers are better."""

SPARE = 1.25
"""What a step that is not the bottleneck can do, as a multiple of what it has to: it waits for none of the others."""

COMBINATIONS = 400
"""Combinations of sizes and threads of all steps that are compared."""

SIMULATED = 12
"""Candidates that are simulated; they are sorted before."""

SEARCHES = 7
"""Halvings of the interval in which the highest rate is searched."""

TRIED = 4
"""Candidates that are simulated for each rate of such a search."""

Option = tuple[int, int]
"""Threads and size."""


@dataclass(frozen=True)
class Recommendation:
    """What is recommended.

    Attributes:
        goal: What the user wants.
        settings: The settings of each step.
        load: The load for which they are.
        expected: What the model says for this load.
        capacity: The most that the flow can do with them.
        memory: Bytes of memory of the workers.
        is_met: Whether the goal is reached.
    """

    goal: Goal
    settings: Settings
    load: Load
    expected: Prediction
    capacity: Capacity
    memory: int
    is_met: bool


def recommend(model: FlowModel, goal: Goal) -> Recommendation:
    """Choose settings.

    Args:
        model: The model of the flow.
        goal: What the user wants. With a rate, the smallest settings that bear it; otherwise those with the highest
            throughput, at the knees of the curves, within the objective.
    """
    fastest = _fastest(model)
    if goal.rate is not None:
        found = _smallest(model, goal.rate, goal.objective)
        settings, load = found or fastest, Load(rate=goal.rate)
        if found is None and model.capacity(fastest).rate <= goal.rate:
            load = Load(rate=HEADROOM * model.capacity(fastest).rate)  # beyond its capacity no time is finite
        return _make(model, goal, settings, load, found is not None)
    if goal.objective is not None:
        rate, within = _highest(model, fastest, goal.objective)
        return _make(model, goal, within or fastest, Load(rate=rate), within is not None)
    return _make(model, goal, fastest, model.saturating(fastest), True)


def _make(model: FlowModel, goal: Goal, settings: Settings, load: Load, is_met: bool) -> Recommendation:
    expected = model.predict(settings, load)
    return Recommendation(
        goal, settings, load, expected, model.capacity(settings), model.memory_of(settings), is_met
    )


def _fastest(model: FlowModel) -> Settings:
    """Return the settings with the highest throughput, and among nearly equal ones the smallest."""
    candidates: dict[tuple[StepSettings, ...], Settings] = {}
    for options in _combinations(model):
        for settings in _grown(model, options):
            candidates[tuple(settings.values())] = settings
    ranked = sorted(candidates.values(), key=lambda settings: -model.capacity(settings).rate)[:SIMULATED]
    rates = [model.predict(settings, model.saturating(settings)).rate for settings in ranked]
    near = [settings for settings, rate in zip(ranked, rates, strict=True) if rate >= NEARLY * max(rates)]
    chosen = min(near, key=lambda settings: _extent(model, settings))
    smaller = _shrunk(model, chosen)
    is_equal = model.predict(smaller, model.saturating(smaller)).rate >= NEARLY * NEARLY * max(rates)
    return smaller if is_equal else chosen


def _shrunk(model: FlowModel, settings: Settings) -> Settings:
    """Give the steps that are not the bottleneck the smallest sizes with which they are not."""
    least = NEARLY * model.capacity(settings).rate
    for step in model.steps:
        own = settings[step.name]
        for point in step.curves[own.threads].points:
            smaller = {**settings, step.name: own._replace(size=point.size)}
            capacity = model.capacity(smaller)
            if point.size < own.size and capacity.rate >= least and capacity.limits[step.name] > SPARE * least:
                settings = smaller
                break
    return settings


def _grown(model: FlowModel, options: Sequence[Option]) -> Iterator[Settings]:
    """Yield settings with as many workers as are of use: one more for the slowest step, as long as that helps.

    Where the cores are full, the last ones have a worker more than that: while one waits, another computes.
    """
    settings = _with_workers(model, options, [1] * len(options))
    while True:
        yield settings
        limits = model.capacity(settings).limits
        slowest = min(model.steps, key=lambda step: limits[step.name])
        own = settings[slowest.name]
        more = {**settings, slowest.name: own._replace(nprocs=own.nprocs + 1)}
        if own.nprocs == slowest.most_workers or not _fits(model, more):
            return
        if model.capacity(settings).bottleneck != slowest.name:
            yield more
            return
        settings = more


def _smallest(model: FlowModel, rate: float, objective: Objective | None) -> Settings | None:
    """Return the smallest settings that bear a rate within an objective; None if there are none."""
    found = []
    for options in _combinations(model):
        settings = _sized(model, options, rate, HEADROOM)
        for _ in range(3 if objective else 1):
            found.append(settings)
            settings = {
                step.name: own._replace(nprocs=min(own.nprocs + 1, step.most_workers))
                for step, own in zip(model.steps, settings.values(), strict=True)
            }
    fitting = [
        settings for settings in found if _fits(model, settings) and rate <= HEADROOM * model.capacity(settings).rate
    ]
    fitting.sort(key=lambda settings: _extent(model, settings))
    if objective is None:
        return fitting[0] if fitting else None
    likely = [settings for settings in fitting if _estimate(model, settings, rate) <= objective.seconds]
    for settings in likely[:SIMULATED]:
        if _is_within(model, settings, rate, objective):
            return settings
    return None


def _quickest(model: FlowModel, rate: float, objective: Objective) -> Settings | None:
    """Return settings that bear a rate within an objective, if those with the shortest times do."""
    found = []
    for options in _combinations(model):
        for headroom in (HEADROOM, HEADROOM / 2):
            settings = _sized(model, options, rate, headroom)
            if _fits(model, settings) and rate <= HEADROOM * model.capacity(settings).rate:
                found.append(settings)
    found.sort(key=lambda settings: _estimate(model, settings, rate))
    return next((settings for settings in found[:TRIED] if _is_within(model, settings, rate, objective)), None)


def _is_within(model: FlowModel, settings: Settings, rate: float, objective: Objective) -> bool:
    return model.predict(settings, Load(rate=rate)).percentile(objective.percent) <= objective.seconds


def _highest(model: FlowModel, fastest: Settings, objective: Objective) -> tuple[float, Settings | None]:
    """Return the highest rate within an objective, and its settings; of the fastest settings if there are none."""
    highest = HEADROOM * model.capacity(fastest).rate
    low, high = 0.0, 2 * highest
    found: Settings | None = None
    for _ in range(SEARCHES):
        rate = (low + high) / 2
        settings = _quickest(model, rate, objective)
        if settings is None:
            high = rate
        else:
            low, found = rate, settings
    return low or highest, found and (_smallest(model, low, objective) or found)


def _combinations(model: FlowModel) -> Iterator[Sequence[Option]]:
    choices = [_options(step) for step in model.steps]
    while _product(choices) > COMBINATIONS:
        longest = max(choices, key=len)
        longest.pop(len(longest) // 2)
    yield from itertools.product(*choices)


def _product(choices: Sequence[Sequence[Option]]) -> int:
    count = 1
    for options in choices:
        count *= len(options)
    return count


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


def _sized(model: FlowModel, options: Sequence[Option], rate: float, headroom: float) -> Settings:
    """Give each step the workers that it needs for a rate."""
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


def _fits(model: FlowModel, settings: Settings) -> bool:
    return model.memory is None or model.memory_of(settings) <= model.memory


def _estimate(model: FlowModel, settings: Settings, rate: float) -> float:
    """Estimate the seconds of a task on the longest route: its calls, and half a call that is under way before each."""
    limits = model.capacity(settings).limits
    times = {}
    for step in model.steps:
        curve, busy = step.curves[settings[step.name].threads], min(0.95, rate / limits[step.name])
        joining = min(settings[step.name].size, rate * model.visits(step.name) * curve.seconds(1) + 1)
        times[step.name] = curve.seconds(joining) * (1 + busy / 2)
    return max(longest(way, times) for way in model.routes)


def _extent(model: FlowModel, settings: Settings) -> tuple[float, ...]:
    """Return what makes settings larger than others: workers and threads, then memory, then batches."""
    return (
        sum(own.nprocs * own.threads for own in settings.values()),
        model.memory_of(settings),
        sum(own.size for own in settings.values()),
        model.processor_time(settings),
    )
