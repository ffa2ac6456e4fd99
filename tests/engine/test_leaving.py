"""Consumers that leave, at every point."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep

from .. import handlers
from ..handlers import Gate, Job, Yielding, notes
from ..support import blocks, eventually, running
from .streaming import STEPS, items_of


@pytest.mark.parametrize("form", ["generator", "rounds", "continuous"])
async def test_a_break_ends_the_task(form: str) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        job = Job(count=10**9, payload=np.ones(20_000))
        async for _ in flow.stream(job, 60):
            break
        del job
        await eventually(lambda: flow.statistics().in_flight == 0)
        assert flow.statistics().cancelled == 1
        await eventually(lambda: blocks(flow) == 0 and not flow.statistics().steps[0].workers[0].in_flight)
        assert (await flow.process(Job(count=3), 60)).total == 3


async def leave_by_break(flow: Flow, job: Job) -> None:
    async for _ in flow.stream(job, 60):
        break


async def leave_by_cancellation(flow: Flow, job: Job) -> None:
    has_begun = asyncio.Event()

    async def read() -> None:
        async for _ in flow.stream(job, 60):
            has_begun.set()

    reader = asyncio.create_task(read())
    await has_begun.wait()
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()


async def leave_by_context(flow: Flow, job: Job) -> None:
    async with flow.stream(job, 60) as stream:
        await anext(stream)


async def leave_in_a_cycle(flow: Flow, job: Job) -> None:
    stream: Any = flow.stream(job, 60)
    await anext(stream)
    stream.itself = stream
    del stream
    gc.collect()


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_cancellation, leave_by_context, leave_in_a_cycle])
async def test_leaving_closes_the_generator_soon(leave: Any, tmp_path: Path) -> None:
    async with running(Flow(FlowStep(Yielding(handlers.run_for_ever)))) as flow:
        path = tmp_path / "notes"
        await leave(flow, Job(path=path, payload=np.ones(20_000)))
        started = time.monotonic()
        await eventually(lambda: notes(path) == ["closed"])
        assert time.monotonic() - started < 1.0
        await eventually(lambda: blocks(flow) == 0)
        assert flow.statistics().cancelled == 1
        assert flow.statistics().in_flight == 0


async def test_leaving_while_the_task_waits_in_the_queue(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(Flow(FlowStep(Yielding(handlers.run_for_ever), concurrency=1))) as flow:
        first = asyncio.create_task(anext(flow.stream(Job(gate=gate), 60)))
        await eventually(gate.is_entered)
        path = tmp_path / "notes"
        second = asyncio.create_task(items_of(flow.stream(Job(path=path, payload=np.ones(20_000)), 60)))
        await eventually(lambda: flow.statistics().steps[0].queued == 1)
        second.cancel()
        await eventually(lambda: flow.statistics().steps[0].queued == 0)
        gate.open()
        assert await first == 0
        await eventually(lambda: blocks(flow) == 0)
        assert notes(path) == []


async def test_leaving_a_stream_that_was_never_begun_does_nothing() -> None:
    async with running(Flow(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=3))
        await stream.aclose()
        del stream
        flow.stream(Job(count=3))
        assert flow.statistics().cancelled == 0
