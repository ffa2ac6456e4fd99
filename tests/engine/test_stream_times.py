"""The deadlines of streams."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from fastapi_aqueduct import Flow, FlowStep, TaskTimeout

from .. import handlers
from ..handlers import Gate, Job, Yielding
from ..support import eventually, running
from .streaming import STEPS, every_form, items_before, items_of


@every_form
async def test_the_first_item_is_late(form: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(Flow(STEPS[form]())) as flow:
        job = Job(count=3, act="gate", at=0, gate=gate)
        items, error = await items_before(flow.stream(job, 0.3, 60))
        gate.open()
        assert items == []
        assert isinstance(error, TaskTimeout)
        await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight == 0)
        assert flow.statistics().timed_out == 1


@every_form
async def test_a_later_item_is_late(form: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(Flow(STEPS[form]())) as flow:
        job = Job(count=5, act="gate", at=3, gate=gate)
        started = time.monotonic()
        items, error = await items_before(flow.stream(job, 60, 0.3))
        gate.open()
        assert items == [0, 1, 2]
        assert isinstance(error, TaskTimeout)
        assert 0.25 < time.monotonic() - started < 10


async def test_items_in_time_keep_a_stream_alive_beyond_its_first_deadline() -> None:
    async with running(Flow(FlowStep(Yielding(handlers.take_turns)))) as flow:
        assert await items_of(flow.stream(Job(count=12, seconds=0.1), 0.5)) == list(range(12))


async def test_the_clock_stands_still_while_the_consumer_is_behind() -> None:
    async with running(Flow(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=500), 60, 0.3)
        assert await anext(stream) == 0
        await asyncio.sleep(1.0)  # what is tested is that nothing happens in a time
        assert await items_of(stream) == list(range(1, 500))
