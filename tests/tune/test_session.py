"""A session measures any flow, ends when it is interrupted, and tells what its handlers do wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from fastapi_aqueduct import Autoscale, BaseTask, ConfigurationError, Cost, FairShare, Flow, FlowStep, WorkerOptions
from fastapi_aqueduct.cli.sample import Sample, SampleFailed
from fastapi_aqueduct.cli.tune import study
from fastapi_aqueduct.cli.tune.goal import Goal
from fastapi_aqueduct.cli.tune.report import report_text
from fastapi_aqueduct.cli.tune.result import Findings
from fastapi_aqueduct.cli.tune.session import SAMPLES, Session
from fastapi_aqueduct.cli.tune.way import longest, names_on
from fastapi_aqueduct.engine.configuration import configure
from fastapi_aqueduct.flow import FlowState
from fastapi_aqueduct.placement.ray_actor import RayActor

from ..support import ZOMBIE, eventually, traces
from .flows import Finished, Fragile, Item, Wait, forked

BUDGET = 1.0
"""Seconds of a session: enough for a few calls of each step."""


class Observer:
    """Calls a function when something begins.

    Args:
        words: Words of its description.
        function: The function.
    """

    def __init__(self, words: str, function: Callable[[], object]) -> None:
        self._words = words
        self._function = function

    def doing(self, what: str) -> None:
        if self._words in what:
            asyncio.get_running_loop().call_soon(self._function)

    def expect(self, seconds: float) -> None:
        pass


def session_of(
    flow: Flow, *tasks: BaseTask, goal: Goal | None = None, budget: float = BUDGET, interrupt_at: str = "nothing"
) -> Session:
    observer = Observer(interrupt_at, lambda: session.interrupt())
    session = Session(
        flow, Sample("make_items", lambda: list(tasks) or Item(), Wait()), goal or Goal(), budget, observer
    )
    return session


async def tune(flow: Flow, *tasks: BaseTask, goal: Goal | None = None, budget: float = BUDGET) -> Findings:
    return await session_of(flow, *tasks, goal=goal, budget=budget).run()


def calls_of(findings: Findings) -> dict[str, float]:
    """Return the seconds of a call of one task in each step, as measured."""
    return {step.name: step.costs.curves[1].seconds(1) for step in findings.steps if step.costs is not None}


def notes_of(findings: Findings) -> str:
    return "\n".join([*findings.notes, *(note for step in findings.steps for note in step.notes)])


@pytest.mark.usefixtures("drawn")
async def test_a_group_takes_as_long_as_its_slowest_branch() -> None:
    flow = forked(
        FlowStep(Wait(0.005, "first"), name="first"),
        [
            FlowStep(Wait(0.03, "slow"), name="slow"),
            (FlowStep(Wait(0.01, "quick"), name="quick"), FlowStep(Wait(0.005, "further"), name="further")),
        ],
        name="grouped",
    )
    findings = await tune(flow, goal=Goal(rate=20), budget=2.0)
    calls = calls_of(findings)
    assert calls.keys() == {"first", "slow", "quick", "further"}
    way = ["first", [["slow"], ["quick", "further"]]]
    found = findings.recommendation
    assert found is not None and found.is_met
    assert found.capacity.bottleneck == "slow"
    # A third of the tasks find the workers idle.
    assert longest(way, calls) <= found.expected.percentile(10) < longest(way, calls) + calls["quick"]
    after = findings.after
    assert after is not None and after.expected is not None
    assert after.outcome.times[0] >= 0.035
    assert not after.outcome.failed
    report = report_text(findings)
    for name in calls:
        assert f"Step {name}</h2>" in report
    assert "The bottleneck is step slow" in report


@pytest.mark.parametrize(
    ("moment", "measured"),
    [
        ("first: start a worker", set()),
        ("first: 1 thread", set()),
        ("second: start a worker", {"first"}),
        ("the flow with its own settings", {"first", "second"}),
        pytest.param(" 1 worker,", {"first", "second"}, marks=pytest.mark.long),
        pytest.param("the flow with the recommended settings", {"first", "second"}, marks=pytest.mark.long),
    ],
)
async def test_an_interruption_ends_each_phase_and_reports_what_was_measured(moment: str, measured: set[str]) -> None:
    flow = forked(FlowStep(Wait(), name="first"), FlowStep(Wait(), name="second"), name="two")
    before = traces().processes
    budget = 10.0 if moment == " 1 worker," else BUDGET  # else there is no time for several workers
    findings = await session_of(flow, budget=budget, interrupt_at=moment).run()
    assert {pid for pid in traces().processes - before if not pid.endswith(ZOMBIE)} == set()
    assert findings.is_interrupted
    assert flow.state is FlowState.STOPPED
    assert calls_of(findings).keys() == measured
    assert (findings.recommendation is not None) == bool(measured)
    if findings.recommendation is not None:
        assert findings.recommendation.settings.keys() == measured
        assert findings.recommendation.expected.rate > 0
    assert (findings.before is None) == (moment not in (" 1 worker,", "the flow with the recommended settings"))
    assert findings.after is None


async def test_an_interruption_in_a_branch_reports_a_way_through_it() -> None:
    flow = forked(
        FlowStep(Wait(name="before"), name="before"),
        [FlowStep(Wait(name="left"), name="left"), FlowStep(Wait(name="right"), name="right")],
        name="grouped",
    )
    findings = await session_of(flow, interrupt_at="right: start").run()
    found = findings.recommendation
    assert found is not None and found.settings.keys() == {"before", "left"}
    assert findings.model is not None
    assert [names_on(way) for way in findings.model.routes] == [["before", "left"]] * len(findings.model.routes)


async def test_an_interruption_while_workers_stop_does_not_leave_them() -> None:
    flow = forked(FlowStep(Wait(stop=1.5), name="only"), name="one")
    before = traces().processes
    session = session_of(flow)
    running = asyncio.ensure_future(session.run())
    await eventually(lambda: flow.state is FlowState.STOPPING)
    session.interrupt()
    findings = await running
    assert findings.is_interrupted
    assert {pid for pid in traces().processes - before if not pid.endswith(ZOMBIE)} == set()


async def test_a_second_interruption_reports_nothing_and_leaves_no_worker() -> None:
    flow = forked(FlowStep(Wait(stop=0.5), name="only"), name="one")
    before = traces().processes
    session = session_of(flow, interrupt_at="the flow with its own")
    running = asyncio.ensure_future(session.run())
    await eventually(lambda: session._is_interrupted)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert {pid for pid in traces().processes - before if not pid.endswith(ZOMBIE)} == set()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        pytest.param("raise", "ValueError: three are too many", marks=pytest.mark.long),
        ("die", "WorkerDied: "),
        ("hang", "TaskTimeout: "),
    ],
)
async def test_a_size_with_which_the_handler_fails_dies_or_hangs_ends_the_sizes(
    how: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "hang":  # a busy machine takes longer to notice the death of a worker
        monkeypatch.setattr(study, "LEAST_PATIENCE", 0.5)
    before = traces().processes
    findings = await tune(forked(FlowStep(Fragile(how), batch_size=2, name="fragile"), name="fragile"))
    assert {pid for pid in traces().processes - before if not pid.endswith(ZOMBIE)} == set()
    (step,) = findings.steps
    assert step.costs is not None
    assert [point.size for point in step.costs.curves[1].points] == [1, 2]
    assert f"fragile: 1 thread, size 4: {reason}" in notes_of(findings)
    assert findings.recommendation is not None
    assert findings.recommendation.settings["fragile"].size <= 2
    assert findings.after is not None and not findings.after.outcome.failed


async def test_an_elastic_step_is_measured_with_all_its_workers_and_read_back() -> None:
    flow = forked(FlowStep(Wait(), nprocs=Autoscale(0, 2), name="elastic"), name="flow")
    findings = await tune(flow, Finished())  # which needs no method of streams
    assert findings.after is not None and not findings.after.outcome.failed
    (step,) = findings.steps
    assert step.costs is not None
    before, found = findings.before, findings.recommendation
    assert before is not None and before.settings["elastic"].nprocs == 2
    assert before.outcome.memory > 1.5 * step.costs.curves[1].memory(1)
    assert found is not None
    options = configure(flow._configuration.options, findings.variables).options
    autoscale = dict(options.steps)["elastic"].autoscale
    assert autoscale is not None
    assert (autoscale.minimum, autoscale.maximum) == (0, found.settings["elastic"].nprocs)


async def test_a_sample_function_that_takes_most_of_the_time_is_noted() -> None:
    def make_item() -> Item:
        time.sleep(0.01)  # reads a file
        return Item()

    flow = forked(FlowStep(Wait(0.001), name="quick"), name="flow")
    session = Session(flow, Sample("make_item", make_item, Wait()), Goal(), BUDGET, Observer("nothing", object))
    assert "the sample function took " in notes_of(await session.run())


async def test_a_flow_with_keys_costs_and_tenants_is_measured() -> None:
    step = FlowStep(
        Fragile(), batch_size=2, batch_key="key", batch_cost=Cost("cost", limit=2), coalesce_key="key", name="keyed"
    )
    flow = forked(step, fair=FairShare("key", queue_share=0.01), queue_size=100, name="tenants")
    findings = await tune(flow, Item("one"), Item("two"))
    (found,) = findings.steps
    assert found.costs is not None
    assert [point.size for point in found.costs.curves[1].points] == [1, 2]
    assert "size 4: 4 tasks at once came to calls of [2]" in notes_of(findings)
    assert "tasks with equal keys share one run of keyed" in notes_of(findings)
    for run in (findings.before, findings.after):
        assert run is not None and not run.outcome.failed, notes_of(findings)


async def test_a_sample_function_that_fails_later_is_noted() -> None:
    made = iter(range(SAMPLES + 1))

    def make_item() -> Item:
        if next(made, None) is None:
            raise FileNotFoundError("page9.png")
        return Item()

    flow = forked(FlowStep(Wait(0.001), name="quick"), name="flow")
    session = Session(flow, Sample("make_item", make_item, Wait()), Goal(), BUDGET, Observer("nothing", object))
    findings = await session.run()
    words = "a run of the whole flow failed: the sample make_item has raised FileNotFoundError: page9.png"
    assert words in notes_of(findings)
    assert findings.recommendation is not None and findings.before is None


async def test_a_sample_may_have_views_of_memory_as_uploads_do() -> None:
    flow = forked(
        FlowStep(Wait(name="before"), name="before"),
        [FlowStep(Wait(name="left"), name="left"), FlowStep(Wait(name="right"), name="right")],
        name="grouped",
    )
    findings = await tune(flow, Item(value=memoryview(bytes(100_000))))
    assert calls_of(findings).keys() == {"before", "left", "right"}
    assert findings.after is not None and not findings.after.outcome.failed, notes_of(findings)


def never(task: BaseTask) -> bool:
    return False


def fail(task: BaseTask) -> bool:
    raise LookupError("no condition")


async def test_samples_that_visit_no_step_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no task of the sample make_items visits a step of flow"):
        await tune(forked(FlowStep(Wait(), handle_condition=never)))


async def test_a_condition_that_fails_and_a_field_that_cannot_be_sent_name_the_step() -> None:
    with pytest.raises(SampleFailed, match="handle_condition of step only fails with the sample: LookupError: no con"):
        await tune(forked(FlowStep(Wait(), handle_condition=fail, name="only")))
    with pytest.raises(SampleFailed, match="step only fails with the sample: TypeError: cannot pickle"):
        await tune(forked(FlowStep(Wait(), name="only")), Item(value=threading.Lock()))


def test_a_step_on_another_machine_is_refused_before_anything_is_measured() -> None:
    far = FlowStep(Wait(), worker=WorkerOptions(placement=RayActor()), name="far")
    with pytest.raises(ConfigurationError, match="step far runs on other machines"):
        session_of(forked(FlowStep(Wait(), name="near"), far))
