"""How a flow stops while there is work."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from fastapi_aqueduct import Flow, FlowStep, NotRunningError

from .. import handlers as common
from ..handlers import Each, Gate, Job, notes
from ..support import DEADLINE, eventually, outcome, pids
from . import handlers
from .handlers import Deaf, Fate


async def test_what_is_in_flight_is_finished_through_all_steps(tmp_path: Path) -> None:
    flow = Flow(FlowStep(Each(common.enter_gate_if_any, common.add_one), nprocs=2), Each(common.double))
    await flow.start_async()
    gate = Gate(tmp_path)
    jobs = [asyncio.create_task(flow.process(Job(number=number, gate=gate), 60)) for number in range(10)]
    await eventually(gate.is_entered)
    stop = asyncio.create_task(flow.stop())
    await eventually(lambda: flow.state == "stopping")
    assert isinstance(await outcome(flow.process(Job(number=1, gate=None))), NotRunningError)
    gate.open()
    assert [(await job).number for job in jobs] == [2 * (number + 1) for number in range(10)]
    await asyncio.wait_for(stop, DEADLINE)


async def test_a_worker_that_dies_while_the_flow_drains_is_replaced_and_its_task_done(tmp_path: Path) -> None:
    flow = Flow(Each(handlers.meet_fate_once))
    await flow.start_async()
    trap = tmp_path / "trap"
    trap.touch()
    job = asyncio.create_task(flow.process(Job(fate=Fate("SIGKILL"), trap=trap, path=tmp_path / "pids"), 60))
    await asyncio.sleep(0)
    await asyncio.wait_for(flow.stop(), DEADLINE)
    assert [(await job).pid] == [int(notes(tmp_path / "pids")[1])]


async def test_those_that_do_not_finish_are_terminated_and_then_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "left"
    flow = Flow(FlowStep(Deaf(path), nprocs=2), stop_timeout=0.3)
    await flow.start_async()
    gate = Gate(tmp_path)
    held = asyncio.create_task(outcome(flow.process(Job(gate=gate), 60)))
    await eventually(gate.is_entered)
    busy = next(worker.pid for worker in flow.statistics().steps[0].workers if worker.in_flight)
    (idle,) = set(pids(flow)) - {busy}
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "fastapi_aqueduct"):
        await asyncio.wait_for(flow.stop(), DEADLINE)
    assert 0.3 <= time.monotonic() - started < 20.0
    ended = held.result()
    assert isinstance(ended, NotRunningError)
    assert "the flow was stopped" in str(ended)
    assert "stops with 1 tasks unfinished" in caplog.text
    assert caplog.text.index("sending SIGTERM") < caplog.text.index("sending SIGKILL")
    assert notes(path) == [str(idle)]  # the other had no occasion


async def test_terminating_is_enough_for_a_busy_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flow = Flow(Each(common.spin), stop_timeout=0.1)
    await flow.start_async()
    begun = tmp_path / "begun"
    held = asyncio.create_task(outcome(flow.process(Job(path=begun), 60)))
    await eventually(begun.exists)
    await asyncio.wait_for(flow.stop(), DEADLINE)
    assert isinstance(await held, NotRunningError)
    assert "sending SIGKILL" not in caplog.text


async def test_on_stop_runs_in_every_worker(tmp_path: Path) -> None:
    path = tmp_path / "left"
    flow = Flow(FlowStep(Deaf(path), nprocs=3))
    await flow.start_async()
    workers = pids(flow)
    await flow.stop()
    assert sorted(map(int, notes(path))) == sorted(workers)
    assert os.getpid() not in workers


async def test_nothing_outlives_a_stop(tmp_path: Path) -> None:
    """In hands, queued, waiting for a place: every future is settled when the stop returns."""
    flow = Flow(Each(common.enter_gate), queue_size=2, stop_timeout=0.1)
    await flow.start_async()
    gate = Gate(tmp_path)
    calls = [asyncio.create_task(outcome(flow.process(Job(gate=gate), 300))) for _ in range(6)]
    await eventually(gate.is_entered)
    os.kill(pids(flow)[0], signal.SIGSTOP)
    await asyncio.wait_for(flow.stop(), DEADLINE)
    await asyncio.sleep(0)
    assert all(call.done() for call in calls)
    assert all(isinstance(call.result(), NotRunningError) for call in calls)
