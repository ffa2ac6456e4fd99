"""Steps by name: what names may be, where they show, and what a flow says of a step."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import pytest

from fastapi_aqueduct import BaseTaskHandler, ConfigurationError, Flow, FlowStep, Step, UnknownStep, WorkerDied

from .. import handlers
from ..handlers import Each, Job
from ..support import DEADLINE, forked, pids, running


class Numberless(BaseTaskHandler):
    """Has the same name at every position, as the package ``aqueduct`` allows."""

    def handle(self, *tasks: Job) -> None: ...

    @classmethod
    def get_step_name(cls, step_number: int) -> str:
        return "numberless"


def test_steps_are_found_by_the_given_and_by_the_numbered_name() -> None:
    flow = forked(FlowStep(Each(), nprocs=3, name="decode"), Each(), name="ocr")
    assert list(flow.steps) == ["decode", "step2_Each"]
    decode = flow.steps["decode"]
    assert decode == flow.steps["step1_Each"]
    assert decode != flow.steps["step2_Each"]
    assert len({decode, *flow.steps.values()}) == 2
    assert [step.position for step in flow.steps.values()] == [0, 1]
    assert (decode.name, decode.numbered_name) == ("decode", "step1_Each")
    assert (decode.handler_class, decode.nprocs) == (Each, 3)
    assert decode.statistics() == flow.statistics().steps[0]
    assert repr(decode) == "<Step decode of flow ocr: Each, nprocs=3>"
    assert repr(flow.steps) == "<Steps of flow ocr: decode, step2_Each>"
    assert "step1_Each" in flow.steps and "recognise" not in flow.steps
    assert decode != forked(FlowStep(Each(), name="decode")).steps["decode"]


def test_an_unknown_step_is_refused_with_those_that_there_are() -> None:
    flow = forked(FlowStep(Each(), name="decode"), Each(), name="ocr")
    with pytest.raises(UnknownStep) as caught:
        flow.steps["recognise"]
    assert str(caught.value) == "flow ocr has no step 'recognise'; it has: decode, step2_Each"
    with pytest.raises(KeyError):
        flow.steps["recognise"]
    assert flow.steps.get("recognise") is None


def test_steps_cannot_be_set() -> None:
    flow = forked(Each())
    steps: Any = flow.steps
    with pytest.raises(TypeError):
        steps["other"] = steps["step1_Each"]
    with pytest.raises(AttributeError):
        flow.steps = steps  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "two words", 'a"b', "a,b", "a;b", "größe", "a\n", "-a", ".", 7, b"a"])
def test_a_name_that_not_everything_can_carry_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="the step with Each needs a name of letters"):
        FlowStep(Each(), name=name)


@pytest.mark.parametrize("name", ["classify", "ocr-v2.1", "2nd", "_x", "step1_Each"])
def test_a_name_that_everything_can_carry(name: str) -> None:
    assert list(forked(FlowStep(Each(), name=name)).steps) == [name]


@pytest.mark.parametrize(
    "steps",
    [
        [FlowStep(Each(), name="a"), FlowStep(Each(), name="a")],
        [FlowStep(Each(), name="step2_Each"), Each()],
        [FlowStep(Each(), name="step2_Each"), FlowStep(Each(), name="b")],
        [Each(), FlowStep(Each(), name="step1_Each")],
        [Numberless(), Numberless()],
    ],
)
def test_two_steps_of_one_name_are_refused(steps: list[Any]) -> None:
    with pytest.raises(ConfigurationError, match="steps 1 and 2 of a flow have the same name '.*'; .*name="):
        forked(*steps)


async def test_errors_logs_and_metrics_have_the_given_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    flow = Flow(FlowStep(Each(handlers.kill_itself), max_retries=0, name="classify"), Each(), name="ocr")
    async with running(flow):
        assert "flow ocr is running: classify, step2_Each" in caplog.text
        task = await flow.process(Job(signal=0))  # signal 0 does nothing
        assert [step.step for step in task.metrics.steps] == ["classify", "step2_Each"]
        step: Step = flow.steps["classify"]
        (pid,) = pids(flow)
        assert [worker.pid for worker in step.statistics().workers] == [pid]
        with pytest.raises(WorkerDied, match=rf"a worker of step classify \(pid {pid}\)") as caught:
            await asyncio.wait_for(flow.process(Job(signal=signal.SIGKILL), 300), DEADLINE)
        assert caught.value.step == "classify"
        assert f"worker of classify in flow ocr (pid {pid})" in caplog.text
        assert step.statistics().name == "classify"
    assert step.statistics().workers == ()
