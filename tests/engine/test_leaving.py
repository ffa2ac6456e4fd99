"""Consumers that leave a stream, at every point."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep

from .. import handlers
from ..handlers import Gate, Job, Yielding, notes
from ..support import blocks, contenders, eventually, forked, run_script, running
from .streaming import STEPS, items_of

Reader = asyncio.Task[list[Any]]


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


async def leave_by_close(flow: Flow, job: Job) -> None:
    stream = flow.stream(job, 60)
    await anext(stream)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def leave_in_a_cycle(flow: Flow, job: Job) -> None:
    stream: Any = flow.stream(job, 60)
    await anext(stream)
    stream.itself = stream
    del stream
    gc.collect()


WAYS = [leave_by_break, leave_by_cancellation, leave_by_context, leave_by_close, leave_in_a_cycle]


@pytest.mark.parametrize("leave", WAYS)
async def test_leaving_between_two_items_closes_the_generator_soon(leave: Any, tmp_path: Path) -> None:
    async with running(forked(FlowStep(Yielding(handlers.run_for_ever)))) as flow:
        path = tmp_path / "notes"
        await leave(flow, Job(path=path, payload=np.ones(20_000)))
        await eventually(lambda: notes(path) == ["closed"])
        await eventually(lambda: blocks(flow) == 0)
        assert flow.statistics().cancelled == 1
        assert flow.statistics().in_flight == 0


@pytest.mark.parametrize("form", ["generator", "rounds", "continuous"])
async def test_a_break_ends_the_task(form: str) -> None:
    async with running(forked(STEPS[form]())) as flow:
        job = Job(count=10**9, payload=np.ones(20_000))
        async for _ in flow.stream(job, 60):
            break
        del job
        await eventually(lambda: flow.statistics().in_flight == 0)
        assert flow.statistics().cancelled == 1
        await eventually(lambda: blocks(flow) == 0 and not flow.statistics().steps[0].workers[0].in_flight)
        assert (await flow.process(Job(count=3), 60)).total == 3


# While the reader waits


class Crowd:
    """A flow whose worker is busy with one stream, and in whose queue another waits.

    Args:
        flow: The flow; its step has a place for one call, and its queue for one task.
        directory: A directory of the test.
    """

    def __init__(self, flow: Flow, directory: Path) -> None:
        self.gate = Gate(directory)
        self._flow = flow
        self._directory = directory
        self.streams: dict[str, Any] = {}
        self.readers: dict[str, Reader] = {}

    def path(self, name: str) -> Path:
        """Return where the generator of a stream notes its end."""
        return self._directory / name

    async def add(self, name: str, has_come: Callable[[], object], **fields: Any) -> None:
        """Begin a stream, and wait until it has come to its point."""
        job = Job(path=self.path(name), payload=np.ones(20_000), **fields)
        stream = self.streams[name] = self._flow.stream(job, 60)
        self.readers[name] = asyncio.create_task(items_of(stream))
        await eventually(has_come)

    async def gather(self) -> None:
        """Begin three streams: one in the hands of the worker, one in the queue, one that waits for a place in it."""
        await self.add("in hand", self.gate.is_entered, count=2, act="gate", at=0, gate=self.gate)
        await self.add("queued", lambda: self._flow.statistics().steps[0].queued == 1, count=2)
        await self.add("no place", lambda: contenders(self._flow) == 1, count=2)


async def cancel(stream: Any, reader: Reader) -> None:
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()


async def close(stream: Any, reader: Reader) -> None:
    await stream.aclose()
    await stream.aclose()


@pytest.mark.parametrize("leave", [cancel, close])
@pytest.mark.parametrize("point", ["in hand", "queued", "no place"])
async def test_leaving_before_the_first_item(
    point: str, leave: Callable[[Any, Reader], Awaitable[None]], tmp_path: Path
) -> None:
    step = FlowStep(Yielding(handlers.count_up), concurrency=1)
    async with running(forked(step, queue_size=1)) as flow:
        crowd = Crowd(flow, tmp_path)
        await crowd.gather()
        await leave(crowd.streams.pop(point), crowd.readers[point])
        crowd.gate.open()
        left = crowd.readers.pop(point)
        assert [await reader for reader in crowd.readers.values()] == [[0, 1]] * 2
        await asyncio.wait([left])
        assert left.cancelled() or left.result() == []
        crowd.streams.clear()
        await eventually(lambda: blocks(flow) == 0)
        await eventually(lambda: not flow.statistics().steps[0].workers[0].in_flight)
        assert notes(crowd.path(point)) == (["closed"] if point == "in hand" else [])  # it had begun
        assert flow.statistics().in_flight == 0


@pytest.mark.parametrize("leave", [cancel, close])
async def test_leaving_while_the_next_item_is_made(leave: Any, tmp_path: Path) -> None:
    gate, path = Gate(tmp_path), tmp_path / "notes"
    async with running(forked(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=5, act="gate", at=2, gate=gate, path=path, payload=np.ones(20_000)), 60)
        reader = asyncio.create_task(items_of(stream))
        await eventually(gate.is_entered)
        await leave(stream, reader)
        assert notes(path) == []  # it is closed when its turn returns
        gate.open()
        await eventually(lambda: notes(path) == ["closed"])
        await eventually(lambda: blocks(flow) == 0)
        await asyncio.wait([reader])


# Without a reader


async def test_leaving_a_stream_that_is_paused(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    async with running(forked(FlowStep(Yielding(handlers.run_for_ever)))) as flow:
        stream = flow.stream(Job(path=path), 60)
        await stream.wait()
        outlet = stream._outlet
        await eventually(lambda: len(outlet) == 256)  # a window
        del stream
        await eventually(lambda: notes(path) == ["closed"])
        await eventually(lambda: flow.statistics().in_flight == 0)
        assert flow.statistics().cancelled == 1


async def test_leaving_after_the_last_item_was_made() -> None:
    async with running(forked(FlowStep(Yielding(handlers.repeat_payload)))) as flow:
        stream = flow.stream(Job(count=3, payload=bytes(100_000), is_slice=False), 60)
        await stream.wait()
        await eventually(lambda: flow.statistics().completed == 1)
        assert blocks(flow) == 3  # not those of the task, which the caller has dropped
        await stream.aclose()
        assert blocks(flow) == 0
        assert flow.statistics().cancelled == 0


async def test_leaving_after_the_end_or_before_the_beginning_does_nothing() -> None:
    async with running(forked(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=3))
        await stream.aclose()
        del stream
        flow.stream(Job(count=3))
        stream = flow.stream(Job(count=3))
        assert await items_of(stream) == [0, 1, 2]
        await stream.aclose()
        await stream.aclose()
        assert flow.statistics().cancelled == 0
        assert flow.statistics().completed == 1


def test_a_program_that_ends_within_a_stream_says_nothing(tmp_path: Path) -> None:
    assert run_script(tmp_path, ENDED) == "0\n0\n"


ENDED = """
    import asyncio
    from fastapi_aqueduct import Flow, FlowStep
    from tests import handlers
    from tests.handlers import Yielding, Job

    flow = Flow(FlowStep(Yielding(handlers.run_for_ever), concurrency=2))

    async def read(stream):
        async for item in stream:
            if item == 0:
                print(item)

    async def main():
        flow.adopt()
        reader = asyncio.create_task(read(flow.stream(Job(), 60)))
        other = flow.stream(Job(), 60)
        print(await anext(other))
        await asyncio.sleep(0.1)
        main.kept = other                       # until after the loop is closed

    if __name__ == "__main__":
        flow.start()
        asyncio.run(main(), debug=True)
"""
