"""Workers that stop while no turn of their streams runs: paused by a slow consumer, or idle."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep, WorkerDied

from .. import handlers
from ..handlers import AsyncYielding, Emitting, Job, Rounds, Yielding
from ..support import eventually, outcome, pids, running
from .support import is_stopped

HANDLE_TIMEOUT = 0.4

PAUSING = {
    "generator": lambda: FlowStep(Yielding(handlers.count_up), handle_timeout=HANDLE_TIMEOUT),
    "plain": lambda: FlowStep(Emitting(), handle_timeout=HANDLE_TIMEOUT),
    "rounds": lambda: FlowStep(Rounds(), batch_size=8, handle_timeout=HANDLE_TIMEOUT),
    "continuous": lambda: FlowStep(Rounds(), batch_size=8, continuous=True, handle_timeout=HANDLE_TIMEOUT),
    "async generator": lambda: FlowStep(AsyncYielding(handlers.count_up_in_loop), handle_timeout=HANDLE_TIMEOUT),
}

every_form = pytest.mark.parametrize("form", PAUSING)


async def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: is_stopped(pid))


async def paused(stream: Any) -> None:
    """Wait until a stream is paused, and nothing of it is on its way."""
    waiting = -1
    while waiting != len(stream._outlet) or not stream._outlet.paused_in:
        waiting = len(stream._outlet)
        await asyncio.sleep(0.1)


@every_form
async def test_a_worker_that_was_stopped_while_its_stream_was_paused_is_a_hang(form: str) -> None:
    async with running(Flow(PAUSING[form]())) as flow:
        stream = flow.stream(Job(count=10**9), 60)
        assert await anext(stream) == 0
        await paused(stream)
        (pid,) = pids(flow)
        await stop(pid)
        await asyncio.sleep(2 * HANDLE_TIMEOUT)  # it does nothing, as it should
        assert pids(flow) == [pid]
        items = []
        with pytest.raises(WorkerDied, match="handle_timeout"):
            async for item in stream:
                items.append(item)
        assert items == list(range(1, len(items) + 1))


@every_form
async def test_a_worker_that_was_stopped_while_it_was_idle_is_a_hang(form: str) -> None:
    async with running(Flow(PAUSING[form]())) as flow:
        (pid,) = pids(flow)
        assert (await flow.process(Job(count=1))).total == 1
        await stop(pid)
        job = await outcome(flow.process(Job(count=3), 15))
        assert getattr(job, "total", job) == 3
        assert pid not in pids(flow)
