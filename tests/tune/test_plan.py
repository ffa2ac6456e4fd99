"""Which measurements are made, one after the other: with steps whose costs are known in place of workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_aqueduct.cli.tune.costs import Point
from fastapi_aqueduct.cli.tune.model import StepSettings
from fastapi_aqueduct.cli.tune.plan import QUICKEST, Limits, StepPlan, Trial

CORES = 4
THREADS = (1, 2, 4)


class KnownStep:
    """Answers the measurements of a plan.

    Args:
        fixed: Seconds of a call.
        each: Seconds of each task of it.
        computing: The part in which the worker computes.
        parallel: The part of the computation that threads share.
        places: Workers that do not slow each other down.
    """

    def __init__(
        self, fixed: float, each: float, computing: float = 1.0, parallel: float = 0.0, places: int = CORES
    ) -> None:
        self.fixed, self.each, self.computing, self.parallel, self.places = fixed, each, computing, parallel, places
        self.trials: list[Trial] = []

    def seconds(self, settings: StepSettings) -> float:
        whole = self.fixed + self.each * settings.size
        return whole * (1 - self.parallel + self.parallel / settings.threads)

    def rate(self, settings: StepSettings) -> float:
        return min(settings.nprocs, self.places) * settings.size / self.seconds(settings)

    def measured(self, limits: Limits) -> StepPlan:
        """Follow a plan to its end."""
        plan = StepPlan("known", limits)
        while trial := plan.next_trial():
            assert trial not in self.trials, "nothing is measured twice"
            self.trials.append(trial)
            settings = trial.settings
            if trial.is_load:
                plan.note_rate(trial, self.rate(settings), settings.nprocs * settings.size / self.seconds(settings))
            else:
                whole = (self.fixed + self.each * settings.size) * self.computing
                plan.note_point(trial, Point(settings.size, self.seconds(settings), whole, memory=100))
        return plan

    def sizes(self, threads: int = 1) -> list[int]:
        """Return the sizes that were measured."""
        return [trial.settings.size for trial in self.trials if not trial.is_load and trial.settings.threads == threads]

    def workers(self) -> list[int]:
        """Return the numbers of workers that were measured."""
        return [trial.settings.nprocs for trial in self.trials if trial.is_load]


@given(
    st.floats(0, 0.1), st.floats(0.0001, 0.1), st.floats(0.01, 1.0), st.floats(0.0, 0.9), st.integers(1, 16),
    st.integers(1, 64),
)  # fmt: skip
def test_each_plan_ends_and_finds_the_knee(
    fixed: float, each: float, computing: float, parallel: float, places: int, largest: int
) -> None:
    step = KnownStep(fixed, each, computing, parallel, places)
    plan = step.measured(Limits(largest, THREADS, CORES))
    assert len(step.trials) <= 20
    assert max(trial.settings.size for trial in step.trials) <= largest
    costs = plan.costs()
    # With any larger size a worker would do little more.
    size = costs.curves[1].knee.size
    beyond = [2 * size] if 2 * size <= largest else []
    for larger in beyond:
        assert larger / (fixed + each * larger) <= 1.12 * size / (fixed + each * size)


def test_a_handler_that_works_task_by_task_is_measured_at_two_sizes() -> None:
    step = KnownStep(0.0, 0.01)
    step.measured(Limits(256, (1,), CORES))
    assert step.sizes() == [1, 2]


def test_sizes_grow_while_the_throughput_does() -> None:
    step = KnownStep(0.05, 0.001)
    plan = step.measured(Limits(256, (1,), CORES))
    assert step.sizes() == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert plan.costs().curves[1].knee.size == 256


def test_threads_are_measured_at_the_knee_until_they_gain_nothing() -> None:
    serial, parallel = KnownStep(0.05, 0.01), KnownStep(0.05, 0.01, parallel=0.9)
    serial_costs = serial.measured(Limits(64, THREADS, CORES)).costs()
    assert len(serial.sizes(threads=2)) == 2
    assert serial.sizes(threads=4) == []
    assert list(serial_costs.curves) == [1]  # a number of threads that gains nothing is none to choose from
    assert list(parallel.measured(Limits(64, THREADS, CORES)).costs().curves) == [1, 2, 4]


def test_a_step_that_waits_is_not_measured_with_more_threads() -> None:
    step = KnownStep(0.05, 0.01, computing=0.01)
    step.measured(Limits(64, THREADS, CORES))
    assert step.sizes(threads=2) == []


def test_workers_are_doubled_until_they_gain_nothing() -> None:
    computing, waiting = KnownStep(0.0, 0.01), KnownStep(0.0, 0.01, computing=0.01, places=16)
    one_device = KnownStep(0.0, 0.01, computing=0.01, places=1)
    assert computing.measured(Limits(1, (1,), CORES)).costs().most_workers == CORES
    assert computing.workers() == [1, 2, 4]
    assert waiting.measured(Limits(1, (1,), CORES)).costs().most_workers == 16
    assert waiting.workers() == [1, 2, 4, 8, 16]
    assert one_device.measured(Limits(1, (1,), CORES)).costs().most_workers == 1
    assert one_device.workers() == [1, 2]


def test_a_load_corrects_single_calls_that_were_measured_as_too_slow_or_too_quick() -> None:
    for factor, slowdown in ((2.0, 2.0), (0.9, 0.9), (0.1, QUICKEST)):
        plan = StepPlan("known", Limits(1, (1,), CORES))
        plan.note_point(Trial(StepSettings(1, 1, 1)), Point(1, 0.01, 0.01))
        plan.note_rate(Trial(StepSettings(1, 1, 1), is_load=True), 100 / factor, 100)
        assert plan.costs().slowdown(1) == pytest.approx(slowdown)
        plan.note_rate(Trial(StepSettings(2, 1, 1), is_load=True), 200, 200)
        assert plan.costs().slowdown(2) == 1.0


def test_no_more_workers_are_started_than_memory_allows() -> None:
    step = KnownStep(0.0, 0.01)
    step.measured(Limits(1, (1,), cores=16, memory=350))
    assert step.workers() == [1, 2, 3]


def test_what_fails_ends_its_series_and_no_other() -> None:
    step = KnownStep(0.05, 0.001)
    plan = StepPlan("known", Limits(256, (1,), CORES))
    while trial := plan.next_trial():
        step.trials.append(trial)
        if trial.settings.size > 8:
            plan.end(trial, "too large")
        elif trial.is_load:
            plan.note_rate(trial, step.rate(trial.settings), step.rate(trial.settings))
        else:
            plan.note_point(trial, Point(trial.settings.size, step.seconds(trial.settings), 0.01))
    assert step.sizes() == [1, 2, 4, 8, 16]
    assert plan.notes == ["too large"]
    assert step.workers()[0] == 1
    assert plan.costs().curves[1].knee.size == 8
