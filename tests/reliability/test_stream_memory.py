"""Streams whose items fill the shared memory."""

from __future__ import annotations

import asyncio
import time

import pytest

from fastapi_aqueduct import ArenaFull, Flow, FlowStep

from ..handlers import Job
from ..support import eventually, running
from .handlers import YieldingArrays

SIZE = 1_000_000
COUNT = 30


def make_flow() -> Flow:
    """Make a flow with memory for three items; a wait for memory is longer than a turn of the handler may take."""
    step = FlowStep(YieldingArrays(), concurrency=2, handle_timeout=0.5)
    return Flow(step, memory_limit=4 << 20)


async def test_a_worker_goes_on_as_soon_as_a_consumer_has_dropped_an_item() -> None:
    async with running(make_flow()) as flow:
        started = time.monotonic()
        numbers = []
        async for item in flow.stream(Job(count=COUNT, size=SIZE), 60):
            numbers.append(int(item[0]))
            del item
            await asyncio.sleep(0.03)
        assert numbers == list(range(COUNT))
        assert time.monotonic() - started < 10.0


async def test_a_consumer_that_keeps_its_items_has_its_own_stream_ended() -> None:
    async with running(make_flow()) as flow:
        greedy = flow.stream(Job(count=COUNT, size=SIZE), 60)
        kept = [await anext(greedy)]
        modest = flow.stream(Job(count=COUNT, size=10), 60)
        with pytest.raises(ArenaFull):
            async for item in greedy:
                kept.append(item)
        del item
        assert [int(item[0]) for item in kept] == list(range(len(kept)))
        assert 1 < len(kept) < 5
        kept.clear()
        assert [int(item[0]) async for item in modest] == list(range(COUNT))
        assert (await flow.process(Job(count=COUNT, size=SIZE))).total == COUNT
        assert flow.statistics().steps[0].restarts == 0


async def test_a_consumer_that_leaves_frees_the_memory_that_its_worker_waits_for() -> None:
    async with running(make_flow()) as flow:
        kept = flow.stream(Job(count=COUNT, size=SIZE), 60)
        first = await anext(kept)
        await eventually(lambda: flow.statistics().arena.used > 3 * SIZE - 1)
        await kept.aclose()
        del first
        await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight == 0)
