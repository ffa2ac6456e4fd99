"""What is recommended is near the best of all settings, for steps whose costs are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fastapi_aqueduct import ConfigurationError
from fastapi_aqueduct.cli.tune.candidates import combinations
from fastapi_aqueduct.cli.tune.costs import KNEE, Curve, Point, StepCosts
from fastapi_aqueduct.cli.tune.goal import Goal, Load, Objective
from fastapi_aqueduct.cli.tune.model import API_PROCESS, CORES, FlowModel, StepSettings
from fastapi_aqueduct.cli.tune.recommendation import HEADROOM, recommend

from .synthetic import MIB, all_settings, flows, make_curve, one_step, workers_of

some = settings(max_examples=5, phases=[Phase.generate], deadline=None)
"""A recommendation simulates a dozen loads, so there are few examples, and none is made smaller."""


@some
@given(flows())
def test_without_a_goal_it_is_nearly_the_highest_throughput_of_all_settings(model: FlowModel) -> None:
    found = recommend(model, Goal())
    best = max(model.capacity(settings).rate for settings in all_settings(model))
    assert found.capacity.rate >= 0.8 * best  # sizes beyond the knee would add the rest
    assert found.expected.rate >= 0.8 * found.capacity.rate
    assert model.memory is None or found.memory <= model.memory


@some
@given(flows(), st.floats(0.05, 0.95))
def test_a_rate_gets_as_few_workers_as_can_bear_it(model: FlowModel, part: float) -> None:
    best = max(model.capacity(settings).rate for settings in all_settings(model))
    rate = part * HEADROOM * KNEE * best
    bearing = [settings for settings in all_settings(model) if rate <= HEADROOM * model.capacity(settings).rate]
    found = recommend(model, Goal(rate=rate))
    assert found.is_met
    assert rate <= HEADROOM * found.capacity.rate
    # One step with a size beyond its knee might do with a worker less.
    assert workers_of(found.settings) <= min(map(workers_of, bearing)) + 1
    assert model.memory is None or found.memory <= model.memory


@some
@given(flows())
def test_a_rate_beyond_the_machine_is_not_met_and_gets_all_there_is(model: FlowModel) -> None:
    best = max(model.capacity(settings).rate for settings in all_settings(model))
    found = recommend(model, Goal(rate=2 * best))
    assert not found.is_met
    assert found.capacity.rate >= 0.8 * best
    assert found.load.rate < found.capacity.rate  # so that the times are finite


def test_an_objective_limits_the_batches() -> None:
    model = one_step(make_curve(0.05, 0.01, computing=0.1))
    slow, quick = recommend(model, Goal(rate=40)), recommend(model, Goal(40, Objective(95, 0.15)))
    assert quick.is_met
    assert quick.expected.percentile(95) <= 0.15 < slow.expected.percentile(95)
    assert quick.settings["only"].nprocs > slow.settings["only"].nprocs


def test_an_objective_alone_gets_the_highest_rate_within_it() -> None:
    model = one_step(make_curve(0.05, 0.01, computing=0.1))
    found = recommend(model, Goal(objective=Objective(95, 0.15)))
    assert found.is_met
    assert found.expected.percentile(95) <= 0.15
    within = [
        settings
        for settings in all_settings(model)
        if model.predict(settings, Load(rate=1.25 * found.load.rate)).percentile(95) <= 0.15
    ]
    assert not within


def test_an_objective_below_a_single_call_is_not_met() -> None:
    found = recommend(one_step(make_curve(0.05, 0.01)), Goal(objective=Objective(95, 0.04)))
    assert not found.is_met


def test_a_step_that_is_not_the_bottleneck_gets_no_larger_batches_than_it_needs() -> None:
    steps = [
        StepCosts("slow", {1: make_curve(0.0, 0.02)}, most_workers=4),
        StepCosts("device", {1: make_curve(0.02, 0.001, computing=0.01)}, most_workers=1),
    ]
    found = recommend(FlowModel(steps, [["slow", "device"]], 0.0001, 4), Goal())
    assert found.settings["slow"] == StepSettings(4, 1, 1)
    assert found.settings["device"].nprocs == 1
    assert found.settings["device"].size in (8, 16)  # of 285 and 444 tasks/s, for 200
    assert found.capacity.bottleneck in (CORES, "slow")


def test_no_more_workers_than_memory_allows() -> None:
    curve = make_curve(0.0, 0.02, memory=1000 * MIB)
    model = FlowModel([StepCosts("only", {1: curve}, most_workers=4)], [["only"]], 0.0001, 4, memory=2500 * MIB)
    found = recommend(model, Goal())
    assert found.settings["only"].nprocs == 2
    assert not recommend(model, Goal(rate=150)).is_met


def test_threads_are_recommended_where_latency_needs_them() -> None:
    one, four = make_curve(0.0, 0.1), Curve([Point(size, 0.03 * size, 0.12 * size) for size in (1, 2, 4)])
    model = FlowModel([StepCosts("only", {1: one, 4: four}, most_workers=4)], [["only"]], 0.0001, 4)
    assert recommend(model, Goal()).settings["only"].threads == 1
    assert recommend(model, Goal(5, Objective(95, 0.09))).settings["only"].threads == 4


def test_of_many_steps_each_can_have_the_size_with_the_highest_throughput() -> None:
    steps = [StepCosts(name, {1: make_curve(0.05, 0.001, 0.01)}, most_workers=1) for name in "abcdefghij"]
    model = FlowModel(steps, [[step.name for step in steps]], 0.0001, 4)
    assert [(1, 16)] * 10 in map(list, combinations(model))


def test_workers_that_wait_for_one_device_need_no_more_processor_time() -> None:
    slowdowns = {1: 1.0, 2: 2.0}
    waiting = StepCosts("only", {1: make_curve(0.02, 0.0, computing=0.1)}, most_workers=2, slowdowns=slowdowns)
    computing = StepCosts("only", {1: make_curve(0.02, 0.0)}, most_workers=2, slowdowns=slowdowns)
    assert waiting.cpu(1, 1, waiting.slowdown(2)) == pytest.approx(0.002)
    assert computing.cpu(1, 1, computing.slowdown(2)) == pytest.approx(0.04)
    # Those that wait do not slow down those that compute.
    settings = {"computing": StepSettings(1, 1, 1), "waiting": StepSettings(2, 1, 1)}
    steps = [replace(computing, name="computing"), replace(waiting, name="waiting")]
    model = FlowModel(steps, [["computing", "waiting"]], 0.0001, 4)
    assert model.slowdowns(settings) == {"computing": 1.0, "waiting": 2.0}


def test_tasks_with_different_keys_share_no_batch() -> None:
    steps = [StepCosts("only", {1: make_curve(0.02, 0.0)}, most_workers=1)]
    settings, load = {"only": StepSettings(1, 8, 1)}, Load(callers=16)
    ways = [["only"]] * 4
    rates = [
        FlowModel(steps, ways, 0.0001, 4, keys=keys).predict(settings, load).rate
        for keys in ({}, {"only": [b"a"] * 4}, {"only": [b"a", b"b", b"a", b"b"]}, {"only": [b"a", b"b", b"c", b"d"]})
    ]
    assert rates[0] == rates[1] == pytest.approx(8 / 0.02)  # full batches
    assert rates[2] < 0.9 * rates[1]
    assert rates[3] < 0.9 * rates[2]


def test_the_api_process_can_be_the_bottleneck() -> None:
    model = FlowModel([StepCosts("only", {1: make_curve(0.0, 0.0001)}, most_workers=4)], [["only"]], 0.001, 4)
    assert recommend(model, Goal()).capacity.bottleneck == API_PROCESS


def test_the_parts_of_a_call_are_told_apart() -> None:
    curve = make_curve(0.05, 0.002)
    assert curve.fixed == pytest.approx(0.05)
    assert curve.per_task == pytest.approx(0.002)
    assert curve.seconds(3) == pytest.approx(0.056)
    assert curve.seconds(32) == pytest.approx(0.114)  # beyond what was measured
    assert curve.knee.size == 16
    assert make_curve(0.0, 0.01).knee.size == 1


@pytest.mark.parametrize(
    ("text", "percent", "seconds"),
    [("p95=200ms", 95, 0.2), ("p99=1.5s", 99, 1.5), ("P50 <= 2", 50, 2.0), ("p99.9=.5s", 99.9, 0.5)],
)
def test_an_objective_is_read(text: str, percent: float, seconds: float) -> None:
    assert Objective.parse(text) == Objective(percent, seconds)


@pytest.mark.parametrize("text", ["", "200ms", "p95", "p95=", "p95=-1s", "p0=1s", "p95=0ms", "p100=1s", "q95=1s"])
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="p95=200ms"):
        Objective.parse(text)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigurationError, match="more than 0 tasks per second"):
        Goal(rate=rate)
