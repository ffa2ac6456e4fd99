"""Handlers that hang, and honest ones that are only slow."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, TaskTimeout, WorkerDied
from fastapi_aqueduct.engine.statistics import StepStatistics
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.testing import client

from .. import handlers as common
from ..handlers import Each, Gate, Job, StartingOnce, Whole
from ..support import DEADLINE, eventually, forked, outcome, pids, running
from . import handlers
from .handlers import StartingAndGate, Stopping
from .support import complete


@pytest.mark.parametrize(
    ("function", "stack"),
    [
        (common.spin, "in spin"),
        (handlers.hold_the_interpreter, "in hold_the_interpreter"),
        (handlers.stop_itself, ""),
    ],
    ids=["endless loop", "call that holds the interpreter", "stopped process"],
)
async def test_a_hung_worker_is_replaced_and_its_stack_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, function: Any, stack: str
) -> None:
    flow = Flow(FlowStep(Each(function), nprocs=2, handle_timeout=0.4, max_retries=0), name="ocr")
    async with running(flow):
        before = pids(flow)
        job = Job(path=tmp_path / "begun", rounds=1 << 60)
        with caplog.at_level(logging.ERROR, "fastapi_aqueduct"):
            died = await asyncio.wait_for(outcome(flow.process(job, 300)), DEADLINE)
            await complete(flow, 2)
    assert isinstance(died, WorkerDied)
    assert died.exit_code == -signal.SIGKILL
    assert died.pid in before
    assert "its handler took longer than handle_timeout=0.4 s" in str(died)
    (record,) = caplog.records
    assert f"step1_Each in flow ocr (pid {died.pid})" in record.getMessage()
    assert stack in record.getMessage()


async def test_the_tasks_of_other_workers_do_not_notice(tmp_path: Path) -> None:
    step = FlowStep(Each(handlers.spin_or_work), nprocs=2, handle_timeout=2.0, max_retries=0)
    async with running(Flow(step)) as flow:
        hung = asyncio.create_task(outcome(flow.process(Job(path=tmp_path / "begun", seconds=None), 300)))
        await eventually((tmp_path / "begun").exists)
        used = set()
        while not hung.done():
            job = await flow.process(Job(seconds=0.01), 1.8)  # before the hung one is killed
            used.add(job.pid)
        died = hung.result()
        assert isinstance(died, WorkerDied)
        assert len(used - {died.pid}) >= 1
        assert died.pid not in used
        assert flow.statistics().failed == 1


async def test_a_worker_that_answers_only_just_too_late_gets_no_further_task() -> None:
    """It is killed for the first task, and another one would be lost with it."""
    step = FlowStep(Each(handlers.answer_too_late), handle_timeout=0.5, max_retries=0)
    async with running(forked(step)) as flow:
        late = await flow.process(Job(seconds=None), DEADLINE)
        next_one = await flow.process(Job(seconds=0.1), DEADLINE)
        assert next_one.pid != late.pid
        assert [step.restarts for step in flow.statistics().steps] == [1]


async def test_a_replacement_that_hangs_in_on_start_is_replaced_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slow = tmp_path / "slow"
    flow = forked(StartingOnce(common.never_end, slow), start_timeout=1.5)
    await flow.start_async(start_timeout=DEADLINE)
    try:
        slow.touch()
        with caplog.at_level(logging.ERROR, "fastapi_aqueduct"):
            os.kill(pids(flow)[0], signal.SIGKILL)
            await eventually(lambda: "start_timeout=1.5 s" in caplog.text)
        slow.unlink()
        await complete(flow, 1)
        assert (await flow.process(Job())).pid == pids(flow)[0]
        assert "in never_end" in caplog.text
    finally:
        await flow.stop()


async def test_a_worker_that_hangs_in_on_stop_is_ended() -> None:
    flow = Flow(FlowStep(Stopping(), nprocs=2), timing=Timing(stop_time=0.3))
    await flow.start_async()
    await asyncio.wait_for(flow.stop(), DEADLINE)


async def test_a_worn_worker_that_hangs_in_on_stop_is_ended() -> None:
    async with running(Flow(FlowStep(Stopping(), max_tasks=1), timing=Timing(stop_time=0.3))) as flow:
        first = (await flow.process(Job())).pid
        await eventually(lambda: first not in [worker.pid for worker in flow.statistics().steps[0].workers])
        await complete(flow, 1)
        assert flow.statistics().steps[0].restarts == 0


# Slow, and honest


async def test_batches_that_stay_within_the_limit_are_not_taken_for_a_hang() -> None:
    """Together they take longer than the limit, and those that wait in the worker's hands do not count."""
    async with running(Flow(FlowStep(Each(handlers.work), handle_timeout=1.0))) as flow:
        before = pids(flow)
        await asyncio.gather(*[flow.process(Job(seconds=0), 5) for _ in range(50)])  # so that it is given many ahead
        await asyncio.gather(*[flow.process(Job(seconds=0.3), 60) for _ in range(6)])
        assert pids(flow) == before


async def test_a_batch_done_again_one_by_one_is_not_taken_for_a_hang() -> None:
    step = FlowStep(Whole(handlers.fail_together_work_alone), batch_size=6, batch_timeout=5.0, handle_timeout=0.8)
    async with running(Flow(step)) as flow:
        before = pids(flow)
        jobs = await asyncio.gather(*[flow.process(Job(seconds=0.3), 60) for _ in range(6)])
        assert {job.pid for job in jobs} == set(before) == set(pids(flow))


async def test_inputs_that_are_slow_to_unpack_are_not_taken_for_a_hang() -> None:
    """Between two calls of the handler no call is too long."""
    step = FlowStep(Whole(handlers.fail_together_work_alone), batch_size=5, batch_timeout=5.0, handle_timeout=0.9)
    async with running(Flow(step)) as flow:
        before = pids(flow)
        jobs = [Job(seconds=0, parcel=handlers.Parcel(0.15)) for _ in range(5)]
        await asyncio.gather(*[flow.process(job, 60) for job in jobs])
        assert pids(flow) == before


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_blocked_event_loop_is_not_taken_for_a_hung_worker(factory: Any) -> None:
    """The answer has come long ago when the loop looks at its clock first."""

    async def main() -> None:
        async with running(Flow(FlowStep(Each(handlers.work), handle_timeout=1.0))) as flow:
            before = pids(flow)
            job = asyncio.create_task(flow.process(Job(seconds=0.1), 60))
            await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight)
            time.sleep(1.7)  # what an application should not do, and does
            assert (await job).pid == before[0]
            await flow.process(Job(seconds=0.4))
            assert pids(flow) == before

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


# Without handle_timeout


HASTY = Timing(hang_after=0.4, give_up_after=3.0)
"""What takes a minute and five more in production."""


async def abandon(flow: Flow, *gates: Gate) -> None:
    """Have workers enter gates with tasks whose callers then leave."""
    calls = [asyncio.create_task(flow.process(Job(gate=gate), 60)) for gate in gates]
    await eventually(lambda: all(gate.is_entered() for gate in gates))
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


def step_of(flow: Flow) -> StepStatistics:
    return flow.statistics().steps[0]


async def test_a_step_whose_workers_all_hang_is_not_ready_and_later_not_alive(tmp_path: Path) -> None:
    flow = Flow(FlowStep(Each(common.enter_gate_if_any), nprocs=2), timing=HASTY, name="ocr")
    async with client(FastAPI(lifespan=Aqueduct(flow).lifespan)) as http:
        gate, other = Gate(tmp_path), Gate(tmp_path, "other")
        assert [(await http.get(path)).status_code for path in ("/ready", "/live")] == [200, 200]
        await abandon(flow, gate, other)
        ends = await asyncio.gather(*[outcome(flow.process(Job(gate=gate), 0.2)) for _ in range(4)])
        assert all(isinstance(end, TaskTimeout) for end in ends)
        await eventually(lambda: step_of(flow).hanging_for)
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "hanging")
        assert "no call of step step1_Each of flow ocr has returned for" in ready.json()["reasons"][0]
        assert (await http.get("/live")).status_code == 200
        await eventually(lambda: step_of(flow).is_given_up)
        assert [(await http.get(path)).status_code for path in ("/ready", "/live")] == [503, 503]
        for closed in (gate, other):
            closed.open()  # the calls return after all
        await eventually(lambda: not step_of(flow).hanging_for)
        assert [(await http.get(path)).status_code for path in ("/ready", "/live")] == [200, 200]
        await flow.process(Job(gate=None))


async def test_a_worker_that_is_idle_works_for_a_task_or_loads_is_not_taken_for_a_hang(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    step = FlowStep(StartingAndGate(slow), nprocs=2)
    async with running(Flow(step, timing=Timing(hang_after=0.0, give_up_after=0.0))) as flow:
        await abandon(flow, Gate(tmp_path, "one"))
        assert not step_of(flow).hanging_for  # the other one is idle
        patient_gate = Gate(tmp_path, "other")
        patient = asyncio.create_task(flow.process(Job(gate=patient_gate), 60))
        await eventually(patient_gate.is_entered)
        assert not step_of(flow).hanging_for  # the other one has a task whose time is not over
        slow.touch()
        patient_gate.open()
        pid = (await patient).pid
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: "starting" in [worker.state for worker in step_of(flow).workers])
        assert not step_of(flow).hanging_for
        slow.unlink()
        await complete(flow, 2)
        await abandon(flow, Gate(tmp_path, "two"))
        await eventually(lambda: step_of(flow).hanging_for)  # all of them are in calls that nothing waits for
        for name in ("one", "two"):
            Gate(tmp_path, name).open()


async def test_calls_that_have_always_taken_long_are_given_three_times_as_long(tmp_path: Path) -> None:
    async with running(Flow(FlowStep(Each(handlers.work)), timing=Timing(hang_after=0.0, give_up_after=0.0))) as flow:
        await flow.process(Job(seconds=1.0), 60)
        late = asyncio.create_task(outcome(flow.process(Job(seconds=1.5), 0.5)))
        assert isinstance(await late, TaskTimeout)
        seen = []
        while step_of(flow).workers[0].in_flight:
            seen.append(step_of(flow).hanging_for)
            await asyncio.sleep(0.01)
        assert seen
        assert not any(seen)
