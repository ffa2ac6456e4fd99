"""The deadlines of streams."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import DeadlineUnreachable, FlowStep, TaskTimeout

from .. import handlers
from ..handlers import Gate, Job, Yielding
from ..support import eventually, forked, running
from .streaming import STEPS, every_form, items_before, items_of


@every_form
async def test_the_first_item_is_late(form: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(forked(STEPS[form]())) as flow:
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
    async with running(forked(STEPS[form]())) as flow:
        job = Job(count=5, act="gate", at=3, gate=gate)
        started = time.monotonic()
        items, error = await items_before(flow.stream(job, 60, 0.3))
        gate.open()
        assert items == [0, 1, 2]
        assert isinstance(error, TaskTimeout)
        assert 0.25 < time.monotonic() - started < 10


async def test_items_in_time_keep_a_stream_alive_beyond_its_first_deadline() -> None:
    async with running(forked(FlowStep(Yielding(handlers.take_turns)))) as flow:
        assert await items_of(flow.stream(Job(count=12, seconds=0.1), 0.5)) == list(range(12))


async def test_the_handler_sees_no_deadline_of_a_stream() -> None:
    """It moves with the items."""
    async with running(forked(FlowStep(Yielding(handlers.yield_deadline)))) as flow:
        job = Job(count=1)
        job.set_timeout(0.0)
        assert await items_of(flow.stream(job, 60)) == [(None, False)]
        (deadline, is_expired), *_ = (await flow.process(Job(count=1, seen=[]), 60)).seen
        assert deadline is not None and not is_expired


async def test_a_stream_of_a_higher_priority_begins_first(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    step = FlowStep(Yielding(handlers.count_up), concurrency=1)
    async with running(forked(step, queue_priorities=2)) as flow:
        begun: list[str] = []

        async def read(name: str, **fields: Any) -> None:
            job = Job(count=1, **fields)
            job.set_priority(int(name == "high"))
            async for _ in flow.stream(job, 60):
                begun.append(name)

        readers = [asyncio.create_task(read("first", act="gate", at=0, gate=gate))]
        await eventually(gate.is_entered)
        readers += [asyncio.create_task(read(name)) for name in ("low", "high")]
        await eventually(lambda: flow.statistics().steps[0].queued == 2)
        gate.open()
        await asyncio.gather(*readers)
        assert begun == ["first", "high", "low"]


async def test_streams_for_which_there_is_a_place_are_admitted(tmp_path: Path) -> None:
    """However long streams take: a task that finds a free place begins at once."""
    gate = Gate(tmp_path)
    async with running(forked(FlowStep(Yielding(handlers.count_up_after_gate), concurrency=4))) as flow:
        await items_of(flow.stream(Job(count=3, act="wait", at=1, seconds=0.5), 60))
        readers = [asyncio.create_task(items_of(flow.stream(Job(count=1, gate=gate), 60)))]
        for _ in range(3):
            flow.check_entry(0, 0.01)
            readers.append(asyncio.create_task(items_of(flow.stream(Job(count=1), 60))))
            await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight == len(readers))
        with pytest.raises(DeadlineUnreachable):
            flow.check_entry(0, 0.01)
        gate.open()
        await asyncio.gather(*readers)


@pytest.mark.parametrize("form", ["generator", "plain"])
async def test_the_error_of_a_late_item_says_for_how_long_none_has_come(form: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(forked(STEPS[form]())) as flow:
        stream = flow.stream(Job(count=5, act="gate", at=1, gate=gate), 60, 0.3)
        items, error = await items_before(stream)
        gate.open()
        assert items == [0]
        assert re.search(r"it was in the hands of step step1_\w+ .*; no item has come for \d+\.\d+ s", str(error))


async def test_the_clock_stands_still_while_the_consumer_is_behind() -> None:
    """It is paused for longer than `item_timeout`, and a later item comes in time after that."""
    async with running(forked(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=400, act="wait", at=300, seconds=0.1), 60, 1.5)
        await stream.wait()
        await eventually(lambda: len(stream._outlet) == 256)
        await asyncio.sleep(1.8)  # what is tested is that nothing happens in a time
        assert await items_of(stream) == list(range(400))
