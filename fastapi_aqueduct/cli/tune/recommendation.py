"""Chooses settings: the smallest that reach a goal, by the model of a flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .candidates import combinations, extent, fits, grown, sized
from .goal import Goal, Load, Objective
from .model import REQUESTS, Capacity, FlowModel, Settings, StepSettings
from .prediction import Prediction
from .way import longest

HEADROOM = 0.8
"""Planned load of a step, as a share of its capacity, if tasks arrive at random. Above it queues grow quickly."""

NEARLY = 0.97
"""Share of the highest throughput that counts as equal to it. Then fewer workers are better."""

SPARE = 1.25
"""Minimum capacity of a step that is not the bottleneck, divided by its load: no other step waits for it."""

SIMULATED = 8
"""Number of candidates that are simulated, the best first."""

FEW_REQUESTS = 250
"""Requests of a simulation that rules out most settings which are too slow."""

SEARCHES = 7
"""Steps of the binary search for the highest rate."""

TRIED = 4
"""Number of candidates that are simulated in each step of that search."""


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
    if goal.rate is not None and (found := _smallest(model, goal.rate, goal.objective)):
        return _make(model, goal, found, Load(rate=goal.rate), True)
    fastest = _fastest(model)
    if goal.rate is not None:
        most = HEADROOM * model.capacity(fastest).rate  # beyond its capacity no time is finite
        return _make(model, goal, fastest, Load(rate=min(goal.rate, most)), False)
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
    capacities: dict[tuple[StepSettings, ...], float] = {}
    for options in combinations(model):
        for settings, rate in grown(model, options):
            key = tuple(settings.values())
            candidates[key], capacities[key] = settings, rate
    ranked = sorted(candidates, key=lambda key: -capacities[key])[:SIMULATED]
    ranked.sort(key=lambda key: extent(model, candidates[key]))
    rates: dict[tuple[StepSettings, ...], float] = {}
    for key in ranked:
        rates[key] = model.predict(candidates[key], model.saturating(candidates[key])).rate
        if rates[key] >= NEARLY * max(capacities.values()):
            break  # those that are larger can do hardly more
    best = max(rates.values())
    chosen = candidates[next(key for key, rate in rates.items() if rate >= NEARLY * best)]
    smaller = _shrunk(model, chosen)
    is_equal = model.predict(smaller, model.saturating(smaller)).rate >= NEARLY * NEARLY * best
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


def _smallest(model: FlowModel, rate: float, objective: Objective | None) -> Settings | None:
    """Return the smallest settings that bear a rate within an objective; None if there are none."""
    found = []
    for options in combinations(model):
        settings = sized(model, options, rate, HEADROOM)
        for _ in range(3 if objective else 1):
            found.append(settings)
            settings = {
                step.name: own._replace(nprocs=min(own.nprocs + 1, step.most_workers))
                for step, own in zip(model.steps, settings.values(), strict=True)
            }
    fitting = _bearing(model, found, rate)
    fitting.sort(key=lambda settings: extent(model, settings))
    if objective is None:
        return fitting[0] if fitting else None
    likely = [settings for settings in fitting if _estimate(model, settings, rate) <= objective.seconds]
    for settings in likely[:SIMULATED]:
        if _is_within(model, settings, rate, objective):
            return settings
    return None


def _quickest(model: FlowModel, rate: float, objective: Objective) -> Settings | None:
    """Return settings that bear a rate within an objective, if those with the shortest times do."""
    found = [
        sized(model, options, rate, headroom)
        for options in combinations(model)
        for headroom in (HEADROOM, HEADROOM / 2)
    ]
    bearing = _bearing(model, found, rate)
    bearing.sort(key=lambda settings: _estimate(model, settings, rate))
    return next((settings for settings in bearing[:TRIED] if _is_within(model, settings, rate, objective)), None)


def _bearing(model: FlowModel, found: Sequence[Settings], rate: float) -> list[Settings]:
    """Return those of settings that bear a rate and fit into memory, each once."""
    unique = {tuple(settings.values()): settings for settings in found}
    return [
        settings
        for settings in unique.values()
        if fits(model, settings) and rate <= HEADROOM * model.capacity(settings).rate
    ]


def _is_within(model: FlowModel, settings: Settings, rate: float, objective: Objective) -> bool:
    # Most of those that are not fail with few requests, too: the queues are empty at first.
    return all(
        model.predict(settings, Load(rate=rate), requests=count).percentile(objective.percent) <= objective.seconds
        for count in (FEW_REQUESTS, REQUESTS)
    )


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


def _estimate(model: FlowModel, settings: Settings, rate: float) -> float:
    """Estimate the seconds of a task on the longest route: its calls, and half a call that is under way before each."""
    limits = model.capacity(settings).limits
    times = {}
    for step in model.steps:
        curve, busy = step.curves[settings[step.name].threads], min(0.95, rate / limits[step.name])
        joining = min(settings[step.name].size, rate * model.visits(step.name) * curve.seconds(1) + 1)
        times[step.name] = curve.seconds(joining) * (1 + busy / 2)
    return max(longest(way, times) for way in model.routes)
