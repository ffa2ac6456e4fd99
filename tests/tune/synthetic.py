"""Flows of which the costs are numbers, and the best settings are found by trying all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import strategies as st

from fastapi_aqueduct.cli.tune.costs import Curve, Point, StepCosts
from fastapi_aqueduct.cli.tune.model import FlowModel, Settings, StepSettings

SIZES = (1, 2, 4, 8, 16)
CORES = 4
MIB = 2**20


def make_curve(fixed: float, each: float, computing: float = 1.0, memory: int = 100 * MIB) -> Curve:
    """Return the costs of calls of all sizes.

    Args:
        fixed: Seconds of a call.
        each: Seconds of each task.
        computing: The part of them in which the worker computes.
        memory: Bytes of a worker, and a hundredth of them for each task.
    """
    seconds = {size: fixed + each * size for size in SIZES}
    return Curve(
        [Point(size, time, time * computing, memory=memory + size * memory // 100) for size, time in seconds.items()]
    )


def one_step(curve: Curve, most_workers: int = 4) -> FlowModel:
    """Return the model of a flow of one step."""
    return FlowModel([StepCosts("only", {1: curve}, most_workers=most_workers)], [["only"]], 0.0001, CORES)


@st.composite
def flows(draw: st.DrawFn) -> FlowModel:
    """Make models of flows of two steps."""
    steps = []
    for name in ("first", "second"):
        curve = make_curve(
            draw(st.sampled_from([0.0, 0.002, 0.01, 0.05])),
            draw(st.sampled_from([0.001, 0.004, 0.02])),
            draw(st.sampled_from([0.05, 0.6, 1.0])),
        )
        steps.append(StepCosts(name, {1: curve}, most_workers=CORES))
    routes = draw(st.sampled_from([[["first", "second"]], [["first"], ["first", "second"]]]))
    return FlowModel(steps, routes, 0.0003, CORES, draw(st.sampled_from([None, 450 * MIB])))


def all_settings(model: FlowModel) -> Iterator[Settings]:
    """Yield all settings that the memory allows."""
    for workers in itertools.product(range(1, CORES + 1), repeat=len(model.steps)):
        for sizes in itertools.product(SIZES, repeat=len(model.steps)):
            settings = {
                step.name: StepSettings(count, size, 1)
                for step, count, size in zip(model.steps, workers, sizes, strict=True)
            }
            if model.memory is None or model.memory_of(settings) <= model.memory:
                yield settings


def workers_of(settings: Settings) -> int:
    return sum(own.nprocs for own in settings.values())
