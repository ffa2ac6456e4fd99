"""Streams and event loops: they belong to the loop that drives the flow, and end with it."""

from __future__ import annotations

import asyncio
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from fastapi_aqueduct import Flow, FlowStep, NotRunningError, UsageError

from .. import handlers
from ..handlers import Gate, Job, Yielding, notes
from ..support import blocks, eventually, forked, running
from .streaming import STEPS, items_before, items_of


async def end(flow: Flow) -> None:
    """Stop a flow that another event loop has driven; nothing may be left of its streams."""
    flow.adopt()
    await eventually(lambda: blocks(flow) == 0)
    await eventually(lambda: not flow.statistics().steps[0].workers[0].in_flight)
    assert flow.statistics().in_flight == 0
    await flow.stop()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_stream_ends_with_its_event_loop(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    flow = forked(FlowStep(Yielding(handlers.run_for_ever), concurrency=2))
    flow.start()
    kept: list[Any] = []

    async def begin() -> None:
        kept.append(flow.stream(Job(path=path, payload=np.ones(20_000)), 60))
        assert await anext(kept[0]) == 0

    async def go_on() -> None:
        assert await anext(flow.stream(Job(), 60)) == 0
        await eventually(lambda: notes(path) == ["closed"])
        items, error = await items_before(kept.pop())
        assert items == list(range(1, len(items) + 1))
        assert isinstance(error, NotRunningError)
        assert "its event loop has ended" in str(error)
        await end(flow)

    run(begin())
    run(go_on())


@pytest.mark.parametrize("is_closed", [True, False])
def test_items_that_garbage_leaves_in_an_ended_event_loop_are_released_in_the_next_one(is_closed: bool) -> None:
    flow = forked(FlowStep(Yielding(handlers.repeat_payload)))
    flow.start()
    kept: list[Any] = []

    async def begin() -> None:
        kept.append(flow.stream(Job(count=3, payload=bytes(100_000), is_slice=False), 60))
        await kept[0].wait()
        await eventually(lambda: flow.statistics().completed == 1)

    async def go_on() -> None:
        assert flow.statistics().arena.blocks == 3
        await end(flow)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    if is_closed:
        loop.close()
    kept.clear()
    asyncio.run(go_on())
    if not is_closed:
        loop.run_until_complete(asyncio.sleep(0))  # it does nothing to the flow any more
        loop.close()


async def test_a_stream_is_made_and_read_in_the_event_loop_that_drives_the_flow(tmp_path: Path) -> None:
    async with running(forked(STEPS["generator"]())) as flow:
        loop, gate = asyncio.get_running_loop(), Gate(tmp_path)
        begun, fresh = flow.stream(Job(count=500), 60), flow.stream(Job(count=2), 60)
        waiting = flow.stream(Job(count=1, act="gate", at=1, gate=gate), 60)
        assert await anext(begun) == await anext(waiting) == 0
        await begun.wait()

        async def make() -> None:
            flow.stream(Job(count=1))

        async def read(stream: Any) -> None:
            async with stream:
                await anext(stream)

        async def read_all() -> list[Any]:
            return await items_of(flow.stream(Job(count=3), 60))

        with ThreadPoolExecutor(1) as thread:

            async def elsewhere(function: Any, *arguments: Any) -> Any:
                return await loop.run_in_executor(thread, function, *arguments)

            with pytest.raises(UsageError, match="asyncio.run_coroutine_threadsafe"):
                await elsewhere(asyncio.run, make())
            with pytest.raises(UsageError, match="where no asyncio event loop runs: .* `flow.process_blocking"):
                await elsewhere(flow.stream, Job(count=1))
            with pytest.raises(UsageError, match="is of another event loop: read it there"):
                await elsewhere(asyncio.run, read(fresh))
            for stream in begun, waiting:
                with pytest.raises(UsageError, match="has begun in another event loop.*: read it there"):
                    await elsewhere(asyncio.run, read(stream))
            gate.open()
            done = await elsewhere(asyncio.run_coroutine_threadsafe, read_all(), loop)
            assert await asyncio.wrap_future(done) == [0, 1, 2]
        await eventually(lambda: flow.statistics().in_flight == 0)  # the error has ended the stream that had begun


async def test_a_stop_leaves_the_items_that_have_come() -> None:
    flow = forked(FlowStep(Yielding(handlers.repeat_payload)))
    await flow.start_async()
    stream = flow.stream(Job(count=3, payload=np.ones(100_000, np.uint8), is_slice=True), 60)
    await stream.wait()
    await flow.stop()  # it waits for the task
    assert [int(item.sum()) async for item in stream] == [100_000, 99_999, 99_998]
    gc.collect()


async def test_a_fork_of_the_program_does_not_end_streams() -> None:
    async with running(Flow(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=300), 60)
        assert await anext(stream) == 0
        pid = os.fork()
        if not pid:
            del stream
            gc.collect()
            os._exit(0)
        os.waitpid(pid, 0)
        assert await items_of(stream) == list(range(1, 300))
