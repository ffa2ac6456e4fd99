"""How far a stream may run ahead of its consumer."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep

from .. import handlers
from ..handlers import Emitting, Job, Yielding
from ..support import engine_of, running


@pytest.mark.parametrize("step", [lambda: FlowStep(Yielding(handlers.count_up)), lambda: FlowStep(Emitting())])
async def test_a_blocked_event_loop_ends_no_stream_that_can_pause(step: Any) -> None:
    async with running(Flow(step())) as flow:
        stream = flow.stream(Job(count=40_000), 60)
        numbers = [await anext(stream)]
        async for number in stream:
            numbers.append(number)
            if number in (100, 20_000):
                time.sleep(0.5)  # longer than a worker needs for all its items
        assert numbers == list(range(40_000))


@pytest.mark.parametrize("block", [0, 0.1])
async def test_a_thousand_large_items_keep_little_memory(block: float) -> None:
    async with running(Flow(FlowStep(Yielding(handlers.repeat_payload)))) as flow:
        memory = engine_of(flow).memory_fd
        most = count = 0
        async for item in flow.stream(Job(count=1000, payload=bytes(1_000_000), is_slice=False), 60):
            assert len(item) == 1_000_000
            most = max(most, os.fstat(memory).st_blocks * 512)  # all that the system has given to the file
            count += 1
            if block and count % 200 == 0:
                time.sleep(block)  # an event loop that is busy with other code
        assert count == 1000
        assert most <= 32 << 20


async def test_large_items_that_the_consumer_keeps_do_not_stop_the_stream() -> None:
    async with running(Flow(FlowStep(Yielding(handlers.repeat_payload)))) as flow:
        job = Job(count=100, payload=np.ones(1_000_000, np.uint8), is_slice=False)
        items = [item async for item in flow.stream(job, 60)]
        assert len(items) == 100
        assert all(len(item) == 1_000_000 for item in items)
        del items, job
