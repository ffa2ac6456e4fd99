"""Chooses settings: the smallest that reach a goal, by the model of a flow."""

from __future__ import annotations

from dataclasses import dataclass

from .candidates import combinations, extent, fits, grown, sized
from .goal import Goal, Load, Objective
from .model import Capacity, FlowModel, Settings, StepSettings
from .prediction import Prediction
from .way import longest

HEADROOM = 0.8
"""The part of its capacity that a step is planned for where tasks arrive at random: beyond it, queues grow quickly."""

NEARLY = 0.97
"""The part of the highest throughput that counts as equal: then fewer workers are better."""

SPARE = 1.25
"""What a step that is not the bottleneck can do, as a multiple of what it has to: it waits for none of the others."""

SIMULATED = 8
"""Candidates that are simulated; they are sorted before."""

SEARCHES = 7
"""Halvings of the interval in which the highest rate is searched."""

TRIED = 4
"""Candidates that are simulated for each rate of such a search."""


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
    for options in combinations(model):
        for settings in grown(model, options):
            candidates[tuple(settings.values())] = settings
    capacities = {key: model.capacity(settings).rate for key, settings in candidates.items()}
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
    fitting = [
        settings for settings in found if fits(model, settings) and rate <= HEADROOM * model.capacity(settings).rate
    ]
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
    found = []
    for options in combinations(model):
        for headroom in (HEADROOM, HEADROOM / 2):
            settings = sized(model, options, rate, headroom)
            if fits(model, settings) and rate <= HEADROOM * model.capacity(settings).rate:
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


def _estimate(model: FlowModel, settings: Settings, rate: float) -> float:
    """Estimate the seconds of a task on the longest route: its calls, and half a call that is under way before each."""
    limits = model.capacity(settings).limits
    times = {}
    for step in model.steps:
        curve, busy = step.curves[settings[step.name].threads], min(0.95, rate / limits[step.name])
        joining = min(settings[step.name].size, rate * model.visits(step.name) * curve.seconds(1) + 1)
        times[step.name] = curve.seconds(joining) * (1 + busy / 2)
    return max(longest(way, times) for way in model.routes)
