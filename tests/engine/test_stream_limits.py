"""Consumers that are slow: how far a stream may run ahead of them, and how much memory it keeps."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import FlowStep, SlowConsumer

from .. import handlers
from ..handlers import Awaiting, Emitting, Gate, Job, Rounds, Yielding
from ..support import blocks, engine_of, eventually, forked, running
from .streaming import STEPS, in_rounds, items_before, items_of


async def test_a_slow_consumer_pauses_its_own_stream_only() -> None:
    async with running(forked(FlowStep(Yielding(handlers.run_for_ever), handle_timeout=0.6, concurrency=2))) as flow:
        slow = flow.stream(Job(), 60)
        assert await anext(slow) == 0
        fast = flow.stream(Job(), 60)
        numbers = []
        started = time.monotonic()
        async for number in fast:
            numbers.append(number)
            if len(numbers) >= 2000 and time.monotonic() - started > 1.2:
                break
        assert numbers == list(range(len(numbers)))
        del fast
        await asyncio.sleep(1.2)  # longer than handle_timeout: a paused stream does not hang
        assert len(slow._outlet) < 1000
        assert flow.statistics().steps[0].restarts == 0
        assert [await anext(slow) for _ in range(3000)] == list(range(1, 3001))
        await slow.aclose()
        await eventually(lambda: flow.statistics().in_flight == 0)


async def test_a_plain_handler_of_one_task_waits_for_its_consumer() -> None:
    async with running(forked(FlowStep(Emitting(), handle_timeout=0.6))) as flow:
        stream = flow.stream(Job(count=20_000), 60)
        assert await anext(stream) == 0
        await asyncio.sleep(1.2)  # longer than handle_timeout
        assert len(stream._outlet) < 1000
        assert await items_of(stream) == list(range(1, 20_000))
        assert flow.statistics().steps[0].restarts == 0


@pytest.mark.parametrize(
    "step",
    [
        lambda: FlowStep(Rounds(), batch_size=2, batch_timeout=10),
        lambda: FlowStep(Rounds(), batch_size=2, continuous=True),
        lambda: FlowStep(Awaiting()),
    ],
    ids=["rounds", "continuous", "coroutine"],
)
async def test_a_consumer_in_a_batch_that_is_too_slow_loses_its_stream_only(step: Any, tmp_path: Path) -> None:
    """The handler waits once for the other one, which would be too slow as well on a busy machine."""
    gate = Gate(tmp_path)
    numbers: list[int] = []
    async with running(forked(step())) as flow:
        slow, fast = flow.stream(Job(count=10**9), 60), flow.stream(Job(count=5000, act="gate", at=2500, gate=gate), 60)

        async def read() -> None:
            async for number in fast:
                numbers.append(number)

        reader = asyncio.create_task(read())
        assert await anext(slow) == 0
        await eventually(lambda: len(numbers) > 1500)  # the last ones leave when there are more
        gate.open()
        await reader
        assert numbers == list(range(5000))
        items, error = await items_before(slow)
        assert items == []
        assert isinstance(error, SlowConsumer)
        assert flow.statistics().steps[0].restarts == 0


async def test_an_endless_generator_without_a_consumer_is_bounded() -> None:
    async with running(forked(FlowStep(Yielding(handlers.run_for_ever)))) as flow:
        stream = flow.stream(Job(), 60)
        assert await anext(stream) == 0
        waiting = -1
        while waiting < 64 or waiting != len(stream._outlet):  # until it stands still
            waiting = len(stream._outlet)
            await asyncio.sleep(0.2)
        assert 64 <= waiting < 1000
        await stream.aclose()


# Large items


@in_rounds
async def test_a_task_that_has_left_a_batch_keeps_no_blocks(form: str, tmp_path: Path) -> None:
    async with running(forked(STEPS[form]())) as flow:
        stream = flow.stream(Job(count=10**9), 60)
        assert await anext(stream) == 0
        if form == "continuous":
            job = Job(count=2, payload=np.ones(20_000))
            assert len(await items_of(flow.stream(job, 60))) == 2
            del job
            gc.collect()
            await eventually(lambda: blocks(flow) == 0)
        await stream.aclose()
        await eventually(lambda: not flow.statistics().steps[0].workers[0].in_flight)
        assert blocks(flow) == 0


@pytest.mark.parametrize("step", [lambda: FlowStep(Yielding(handlers.count_up)), lambda: FlowStep(Emitting())])
async def test_a_blocked_event_loop_ends_no_stream_that_can_pause(step: Any) -> None:
    async with running(forked(step())) as flow:
        stream = flow.stream(Job(count=20_000), 60)
        assert [await anext(stream) for _ in range(100)] == list(range(100))
        time.sleep(0.5)  # longer than a worker needs for thousands of items
        assert await items_of(stream) == list(range(100, 20_000))


@pytest.mark.parametrize(("is_slice", "block"), [(False, 0), (False, 0.1), (True, 0)])
async def test_a_thousand_large_items_keep_little_memory(is_slice: bool, block: float) -> None:
    async with running(forked(FlowStep(Yielding(handlers.repeat_payload)))) as flow:
        memory = engine_of(flow).memory_fd
        most = count = 0
        payload: Any = np.zeros(1_000_000, np.uint8) if is_slice else bytes(1_000_000)
        async for item in flow.stream(Job(count=1000, payload=payload, is_slice=is_slice), 60):
            assert len(item) > 998_000
            most = max(most, os.fstat(memory).st_blocks * 512)  # all that the system has given to the file
            count += 1
            if block and count % 200 == 0:
                time.sleep(block)  # an event loop that is busy with other code
        assert count == 1000
        assert most <= 32 << 20
        del item


async def test_a_slow_consumer_of_large_items_keeps_a_window_of_memory_beside_a_fast_one() -> None:
    step = FlowStep(Yielding(handlers.repeat_payload), concurrency=2)
    async with running(forked(step)) as flow:
        memory = engine_of(flow).memory_fd
        payload = np.ones(1_000_000, np.uint8)
        slow = flow.stream(Job(count=200, payload=payload, is_slice=False), 60)
        await slow.wait()
        assert len(await items_of(flow.stream(Job(count=50, payload=payload, is_slice=False), 60))) == 50
        assert 4 <= len(slow._outlet) <= 5
        gc.collect()
        count = most = 0
        async for item in slow:
            count += len(item) == 1_000_000
            most = max(most, flow.statistics().arena.used)
        assert count == 200
        assert most <= 16 << 20
        assert os.fstat(memory).st_blocks * 512 <= 80 << 20  # the fast consumer has kept its items for a moment
        del item, payload


async def test_large_items_that_the_consumer_keeps_do_not_stop_the_stream() -> None:
    async with running(forked(FlowStep(Yielding(handlers.repeat_payload)))) as flow:
        job = Job(count=100, payload=np.ones(1_000_000, np.uint8), is_slice=False)
        items = [item async for item in flow.stream(job, 60)]
        assert len(items) == 100
        assert all(len(item) == 1_000_000 for item in items)
        del items, job
