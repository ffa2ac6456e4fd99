"""Streams whose workers die, and whose flows stop."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from fastapi_aqueduct import Flow, FlowStep, NotRunningError, WorkerDied

from .. import handlers
from ..handlers import Each, Gate, Job, Yielding
from ..support import blocks, contenders, eventually, forked, outcome, pids, run_script, running
from .streaming import STEPS, every_form, items_before, items_of

some_forms = pytest.mark.parametrize("form", ["generator", "coroutine"])
"""With default settings; tests/reliability/test_stream_matrix.py has every form at every point."""


@some_forms
async def test_a_task_whose_worker_dies_before_its_first_item_is_tried_again(form: str, tmp_path: Path) -> None:
    async with running(forked(STEPS[form]())) as flow:
        job = Job(count=5, act="die once", at=0, mark=tmp_path / "mark")
        assert await items_of(flow.stream(job, 60)) == [0, 1, 2, 3, 4]
        assert flow.statistics().steps[0].retries == 1


@some_forms
async def test_a_task_whose_worker_dies_after_its_first_item_fails(form: str) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        stream = flow.stream(Job(count=10**9), 60)
        assert [await anext(stream) for _ in range(2)] == [0, 1]
        os.kill(pids(flow)[0], signal.SIGKILL)
        items, error = await items_before(stream)
        assert items == list(range(2, len(items) + 2))
        assert isinstance(error, WorkerDied)
        assert flow.statistics().steps[0].retries == 0
        assert blocks(flow) == 0


async def test_of_many_generators_the_one_whose_turn_it_was_is_to_blame(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    gate.open()
    async with running(forked(FlowStep(Yielding(handlers.take_turns_or_die), concurrency=8))) as flow:
        innocent = [Job(count=3, seconds=0.02, is_deadly=False) for _ in range(4)]
        calls = [asyncio.create_task(outcome(flow.process(job, 60))) for job in innocent]
        deadly = await items_before(flow.stream(Job(count=3, seconds=0.02, is_deadly=True), 60))
        assert isinstance(deadly[1], WorkerDied)
        assert [await call for call in calls] == innocent
        assert [job.total for job in innocent] == [3] * 4


async def test_a_deadly_task_of_a_continuous_batch_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    async with running(forked(STEPS["continuous"]())) as flow:
        innocent = [Job(count=30) for _ in range(4)]
        calls = [asyncio.create_task(outcome(flow.process(job, 60))) for job in innocent]
        assert isinstance(await outcome(flow.process(Job(count=30, act="die", at=5), 60)), WorkerDied)
        assert [await call for call in calls] == innocent


async def test_a_turn_that_hangs_is_killed_and_replaced() -> None:
    async with running(Flow(FlowStep(Yielding(handlers.count_up), handle_timeout=0.3))) as flow:
        items, error = await items_before(flow.stream(Job(count=5, act="wait", at=2, seconds=60), 60))
        assert items == [0, 1]
        assert isinstance(error, WorkerDied)
        assert "handle_timeout" in str(error)


async def test_many_turns_may_take_longer_than_handle_timeout() -> None:
    async with running(forked(FlowStep(Yielding(handlers.take_turns), handle_timeout=0.4))) as flow:
        assert await items_of(flow.stream(Job(count=10, seconds=0.1), 60)) == list(range(10))
        await asyncio.sleep(0.6)  # an idle worker does not hang
        assert flow.statistics().steps[0].restarts == 0


# Stop


@every_form
async def test_a_stop_ends_open_streams(form: str, tmp_path: Path) -> None:
    async with running(forked(STEPS[form](), stop_timeout=0.3)) as flow:
        job = Job(count=10**9)
        if form == "coroutine":  # it cannot be paused: on a slow machine its consumer would be behind
            job = Job(count=10**9, act="gate", at=3, gate=Gate(tmp_path))
        stream = flow.stream(job, 60)
        assert await anext(stream) == 0
        stopping = asyncio.create_task(flow.stop())
        _, error = await items_before(stream)
        assert isinstance(error, NotRunningError)
        await stopping


@every_form
async def test_a_graceful_stop_waits_for_streams(form: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(forked(STEPS[form]())) as flow:
        stream = flow.stream(Job(count=5, act="gate", at=3, gate=gate), 60)
        assert await anext(stream) == 0
        stopping = asyncio.create_task(flow.stop())
        await eventually(gate.is_entered)
        gate.open()
        assert await items_of(stream) == [1, 2, 3, 4]
        await stopping


@pytest.mark.parametrize("form", ["generator", "rounds", "continuous"])
async def test_the_end_of_all_streams(form: str) -> None:
    """The items that have come are read first; other tasks go on, and new streams are refused until a new start."""
    async with running(forked(FlowStep(Each(handlers.enter_gate_if_any)), STEPS[form]())) as flow:
        other = flow.stream(Job(count=1))
        stream = flow.stream(Job(count=10**9), 60)
        assert await anext(stream) == 0
        await eventually(lambda: len(stream._outlet) >= 64)
        flow.end_streams()
        items, error = await items_before(stream)
        assert items == list(range(1, len(items) + 1)) and len(items) >= 64
        assert isinstance(error, NotRunningError)
        for refused in other, flow.stream(Job(count=1)):
            with pytest.raises(NotRunningError, match="has ended its streams"):
                await anext(refused)
        assert (await flow.process(Job(count=5))).total == 5
        await flow.stop()
        await flow.start_async()
        assert await items_of(flow.stream(Job(count=2))) == [0, 1]


async def test_the_end_of_a_stream_that_waits_for_a_place(tmp_path: Path) -> None:
    """It is not in the flow yet; it ends when it would be."""
    gate = Gate(tmp_path)
    async with running(forked(FlowStep(Each(handlers.enter_gate_if_any)), queue_size=1)) as flow:
        tasks = [Job(gate=gate), Job(), Job()]
        held = []
        for task in tasks:
            held.append(asyncio.create_task(flow.process(task, 60)))
            await eventually(gate.is_entered)
        await eventually(lambda: contenders(flow))
        waiting = asyncio.create_task(items_before(flow.stream(Job(), 60)))
        await eventually(lambda: contenders(flow) == 2)
        flow.end_streams()
        gate.open()
        _, error = await waiting
        assert isinstance(error, NotRunningError)
        await asyncio.gather(*held)


def test_streams_end_with_a_flow_that_stops(tmp_path: Path) -> None:
    """In a plain script, and within the stop timeout: one that ends by then is whole."""
    printed = run_script(tmp_path, STOPPED)
    assert printed.split() == ["whole", "NotRunningError", "in", "time"]


STOPPED = """
    import asyncio
    import logging
    import time

    from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, NotRunningError

    class Count(BaseTask):
        def __init__(self, count):
            self.count = count

    class Counter(BaseTaskHandler):
        def handle(self, task):
            for number in range(task.count):
                yield number
                time.sleep(0.005)

    async def read(stream):
        items = []
        try:
            async for item in stream:
                items.append(item)
        except NotRunningError as exc:
            return type(exc).__name__
        return "whole" if items == list(range(20)) else items

    async def main():
        logging.disable(logging.WARNING)  # of the task that is not finished
        flow = Flow(FlowStep(Counter(), concurrency=2), stop_timeout=2)
        async with flow:
            streams = [flow.stream(Count(count), 60) for count in (20, 10**9)]
            reading = [asyncio.create_task(read(stream)) for stream in streams]
            while flow.statistics().in_flight < 2:
                await asyncio.sleep(0)
            begun = time.monotonic()
        print(*await asyncio.gather(*reading), "in time" if time.monotonic() - begun < 20 else "late")

    if __name__ == "__main__":
        asyncio.run(main())
"""
