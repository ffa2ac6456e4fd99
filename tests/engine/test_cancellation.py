"""Tasks whose callers leave while a worker has them in hand."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import FlowStep, TaskTimeout

from .. import handlers
from ..handlers import Each, Gate, Job, notes
from ..support import blocks, eventually, forked, outcome, running


@pytest.mark.parametrize("batch_size", [1, 4])
async def test_a_handler_learns_that_its_caller_was_cancelled(tmp_path: Path, batch_size: int) -> None:
    async with running(forked(FlowStep(Each(handlers.work_until_cancelled), batch_size=batch_size))) as flow:
        log = tmp_path / "log"
        call = asyncio.create_task(outcome(flow.process(Job(path=log, payload=bytes(100_000)), 60)))
        await eventually(lambda: notes(log) == ["begun"])
        call.cancel()
        await eventually(lambda: notes(log) == ["begun", "cancelled"])
        await eventually(lambda: blocks(flow) == 0)
        assert flow.statistics().steps[0].restarts == 0


async def test_a_handler_learns_that_the_deadline_has_passed(tmp_path: Path) -> None:
    async with running(forked(FlowStep(Each(handlers.work_until_cancelled)))) as flow:
        log = tmp_path / "log"
        assert isinstance(await outcome(flow.process(Job(path=log), 1)), TaskTimeout)
        await eventually(lambda: notes(log) == ["begun", "cancelled"])


async def test_a_cancelled_task_does_not_disturb_the_others_of_its_batch(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    step = FlowStep(Each(handlers.enter_gate_if_any, handlers.ask_whether_cancelled), batch_size=3, batch_timeout=5)
    async with running(forked(step)) as flow:
        jobs: list[Any] = [Job(gate=gate), Job(), Job()]
        calls = [asyncio.create_task(outcome(flow.process(job, 60))) for job in jobs]
        await eventually(gate.is_entered)
        calls[1].cancel()
        await asyncio.sleep(0)
        gate.open()
        done = [await calls[0], await calls[2]]
        assert [job.was_cancelled for job in done] == [False, False]


async def test_a_task_outside_a_worker_is_not_cancelled_and_sends_nothing() -> None:
    task = Job()
    task.emit(1)
    task.progress(1, 2)
    assert not task.is_cancelled
