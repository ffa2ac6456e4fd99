"""Contract: what a flow promises, for each way to start workers, threads in place of them, and each event loop."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowState, FlowStep, NotRunningError, WorkerDied

from .. import handlers
from ..handlers import Each, Gate, Job, notes
from ..support import DEADLINE, WORKERS, engine, eventually, outcome, pids, running

Method = Literal["spawn", "forkserver"]


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test with both start methods, from a template, and with threads unless it is about processes."""
    ways = {"spawn": ("spawn", "processes"), "forkserver": ("forkserver", "processes")}
    if not list(metafunc.definition.iter_markers("processes")):
        ways["inline"] = ("spawn", "threads")
    rows = {f"{name}-{loop}": (*way, loop) for name, way in ways.items() for loop in ("asyncio", "uvloop")}
    rows["template-uvloop"] = "spawn", "template", "uvloop"
    indirect = ["workers", "anyio_backend"]
    metafunc.parametrize(("method", *indirect), rows.values(), indirect=indirect, ids=rows)


async def test_process_fills_in_the_task_of_the_caller_and_returns_it(method: Method) -> None:
    async with running(Flow(Each(handlers.add_one, handlers.tell_pid), mp_start_method=method)) as flow:
        task = Job(number=1, untouched=["a", {"b": 2}])
        task_id = task.task_id
        assert await flow.process(task) is task
        assert task.number == 2
        assert task.untouched == ["a", {"b": 2}]
        assert task.task_id == task_id
        assert task.pid in pids(flow)
        assert (task.pid == os.getpid()) == WORKERS.are_threads


async def test_steps_run_in_order_and_are_measured(method: Method) -> None:
    flow = Flow(Each(handlers.add_one), Each(handlers.double), Each(handlers.add_one), mp_start_method=method)
    async with running(flow):
        task = await flow.process(Job(number=1))
    assert task.number == 5
    assert [step.step for step in task.metrics.steps] == ["step1_Each", "step2_Each", "step3_Each"]
    assert all(step.batch_size == 1 and step.queue_time >= 0 and step.handle_time > 0 for step in task.metrics.steps)
    assert task.metrics.total_time >= sum(step.handle_time for step in task.metrics.steps)


async def test_each_of_many_callers_gets_its_own_answer(method: Method) -> None:
    steps = FlowStep(Each(handlers.add_one), nprocs=2, batch_size=4), FlowStep(Each(handlers.double))
    async with running(Flow(*steps, mp_start_method=method)) as flow:
        tasks = await asyncio.gather(*[flow.process(Job(number=number), 30) for number in range(300)])
        assert [task.number for task in tasks] == [2 * (number + 1) for number in range(300)]
        assert flow.statistics().completed == 300
        assert flow.statistics().in_flight == 0


async def test_large_fields_travel_both_ways(method: Method) -> None:
    flow = Flow(Each(handlers.sum_up, handlers.replace_image), Each(handlers.look_at_payload), mp_start_method=method)
    async with running(flow):
        image = np.arange(300_000, dtype=np.int64)
        task = await flow.process(Job(image=image, payload=b"x" * 100_000))
        assert task.total == image.sum()
        assert np.array_equal(task.image, image + 1)
        assert (task.kind, task.length, task.payload) == ("bytes", 100_000, b"x" * 100_000)
        del task


async def test_an_exception_of_a_handler_reaches_the_caller_as_itself(method: Method) -> None:
    async with running(Flow(Each(handlers.raise_error), mp_start_method=method)) as flow:
        with pytest.raises(ValueError, match="bad picture") as caught:
            await flow.process(Job(error="value"))
        assert "raise_error" in str(caught.value.__cause__)


async def test_a_condition_decides_which_steps_a_task_visits(method: Method) -> None:
    steps = FlowStep(Each(handlers.add_one), handlers.is_even), FlowStep(Each(handlers.double), handlers.is_even)
    async with running(Flow(*steps, mp_start_method=method)) as flow:
        assert (await flow.process(Job(number=2))).number == 3
        assert (await flow.process(Job(number=3))).number == 3


@pytest.mark.processes
async def test_a_killed_worker_is_replaced(method: Method) -> None:
    async with running(Flow(Each(handlers.tell_pid), mp_start_method=method)) as flow:
        (first,) = pids(flow)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: pids(flow) not in ([], [first]))
        (second,) = pids(flow)
        assert (await flow.process(Job())).pid == second != first


@pytest.mark.processes
async def test_a_task_dies_with_its_worker_at_once(method: Method, tmp_path: Path) -> None:
    async with running(Flow(FlowStep(Each(handlers.enter_gate), max_retries=0), mp_start_method=method)) as flow:
        gate = Gate(tmp_path)
        task = asyncio.create_task(outcome(flow.process(Job(gate=gate), 60)))
        await eventually(gate.is_entered)
        (pid,) = pids(flow)
        os.kill(pid, signal.SIGKILL)
        died = await asyncio.wait_for(task, DEADLINE)
        assert isinstance(died, WorkerDied)
        assert (died.step, died.pid, died.exit_code) == ("step1_Each", pid, -signal.SIGKILL)
        assert "SIGKILL" in str(died)


async def test_a_cancelled_task_that_waits_never_runs(method: Method, tmp_path: Path) -> None:
    flow = Flow(Each(handlers.enter_gate_if_any, handlers.write_down), mp_start_method=method)
    path = tmp_path / "ran"
    async with running(flow):
        gate = Gate(tmp_path)
        held = asyncio.create_task(flow.process(Job(number=0, path=path, gate=gate), 30))
        await eventually(gate.is_entered)
        waiting = [asyncio.create_task(flow.process(Job(number=number, path=path))) for number in (1, 2, 3)]
        await eventually(lambda: flow.statistics().steps[0].queued == 3)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert all(task.cancelled() for task in waiting)
        assert flow.statistics().steps[0].queued == 0
        gate.open()
        await held
        await flow.process(Job(number=4, path=path))
        assert flow.statistics().cancelled == 3
    assert notes(path) == ["0", "4"]


async def test_stop_finishes_what_is_in_flight_and_refuses_what_is_new(method: Method, tmp_path: Path) -> None:
    flow = Flow(Each(handlers.enter_gate, handlers.add_one), mp_start_method=method)
    with engine(flow):
        await flow.start_async()
    gate = Gate(tmp_path)
    tasks = [asyncio.create_task(flow.process(Job(number=number, gate=gate), 30)) for number in range(3)]
    await eventually(gate.is_entered)
    stop = asyncio.create_task(flow.stop())
    await eventually(lambda: flow.state is FlowState.STOPPING)
    with pytest.raises(NotRunningError, match="stopping"):
        await flow.process(Job(number=9, gate=gate))
    gate.open()
    assert [(await task).number for task in tasks] == [1, 2, 3]
    await stop
    assert flow.state is FlowState.STOPPED


async def test_a_flow_can_be_started_again(method: Method) -> None:
    flow = Flow(Each(handlers.add_one), mp_start_method=method)
    for number in range(2):
        async with running(flow):
            assert (await flow.process(Job(number=number))).number == number + 1
        assert flow.state is FlowState.STOPPED
