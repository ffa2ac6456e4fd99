"""Handlers that are ``async def``: calls that run side by side in one worker."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep, HandlerError, HandlerTimeout, StartError, UsageError, WorkerDied

from ..handlers import AsyncYielding, Gate, InLoop, Job, notes
from ..support import blocks, eventually, forked, outcome, pids, running
from . import async_handlers
from .async_handlers import AsyncStart, Counting, FailingStart, Life, PlainStart


async def items_of(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def test_calls_run_side_by_side_and_are_answered_as_they_end(tmp_path: Path) -> None:
    async with running(forked(InLoop(async_handlers.wait_for_gate))) as flow:
        gates = [Gate(tmp_path, str(number)) for number in range(50)]
        calls = [asyncio.create_task(flow.process(Job(is_bad=False, gate=gate), 60)) for gate in gates]
        await eventually(lambda: all(gate.is_entered() for gate in gates))
        while calls:  # the last one ends first
            gates.pop().open()
            await calls.pop()
            assert not any(call.done() for call in calls)


async def test_one_event_loop_from_start_to_stop_and_a_context_for_each_call(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    async with running(forked(Life(path))) as flow:
        jobs = [Job(payload=np.ones(20_000)) for _ in range(20)]
        await asyncio.gather(*[flow.process(job) for job in jobs])
        assert {(job.is_same_loop, job.before, job.is_its_own) for job in jobs} == {(True, "on_start", True)}
        jobs.clear()
    assert notes(path) == ["stopped-True"]


async def test_ordinary_methods_beside_an_asynchronous_handle(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    async with running(forked(PlainStart(path))) as flow:
        assert (await flow.process(Job())).number == 7
    assert notes(path) == ["stopped"]


async def test_asynchronous_methods_beside_an_ordinary_handle(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    async with running(forked(FlowStep(AsyncStart(path), batch_size=4))) as flow:
        assert (await flow.process(Job())).number == 7
    assert notes(path) == ["stopped-True"]


async def test_a_start_that_raises() -> None:
    with pytest.raises(StartError, match="step1_FailingStart") as raised:
        await forked(FailingStart()).start_async()
    assert isinstance(raised.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(("options", "most"), [({"concurrency": 1}, 1), ({"concurrency": 3}, 3), ({}, 20)])
async def test_no_more_calls_than_places(options: Any, most: int, tmp_path: Path) -> None:
    async with running(forked(FlowStep(Counting(), **options))) as flow:
        gate = Gate(tmp_path)
        jobs = [Job(finishes=number % 2, gate=gate) for number in range(20)]
        calls = [asyncio.create_task(flow.process(job, 60)) for job in jobs]
        await eventually(lambda: len(gate.entrants()) >= most)
        gate.open()
        await asyncio.gather(*calls)
        assert max(job.most for job in jobs) == most


async def test_batches_side_by_side(tmp_path: Path) -> None:
    async with running(forked(FlowStep(Counting(), batch_size=4, batch_timeout=0.05, concurrency=2))) as flow:
        gate = Gate(tmp_path)
        jobs = [Job(finishes=False, gate=gate) for _ in range(16)]
        calls = [asyncio.create_task(flow.process(job, 60)) for job in jobs]
        await eventually(lambda: len(gate.entrants()) >= 2)
        gate.open()
        await asyncio.gather(*calls)
        assert max(job.most for job in jobs) == 2
        assert {job.batch for job in jobs} == {4}


async def test_one_bad_task_of_a_batch_fails_alone(tmp_path: Path) -> None:
    step = FlowStep(InLoop(async_handlers.wait_for_gate), batch_size=3, batch_timeout=5)
    async with running(forked(step)) as flow:
        jobs = [Job(is_bad=number == 1, gate=None) for number in range(3)]
        ends = await asyncio.gather(*[outcome(flow.process(job, 60)) for job in jobs])
        assert [type(end) for end in ends] == [Job, ValueError, Job]


async def test_a_caller_that_leaves_a_batch_is_seen_and_does_not_end_it(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    step = FlowStep(InLoop(async_handlers.wait_for_gate), batch_size=2, batch_timeout=5)
    async with running(forked(step)) as flow:
        jobs = [Job(is_bad=False, gate=gate), Job(is_bad=False, gate=None)]
        calls = [asyncio.create_task(outcome(flow.process(job, 60))) for job in jobs]
        await eventually(gate.is_entered)
        calls[0].cancel()
        assert not (await calls[1]).was_cancelled  # and the gate was never opened


async def test_the_wall_time_of_a_call_is_its_handle_time() -> None:
    async with running(forked(InLoop(async_handlers.sleep))) as flow:
        jobs = [Job(seconds=0.1) for _ in range(5)]
        await asyncio.gather(*[flow.process(job) for job in jobs])
        assert all(0.09 < job.metrics.steps[0].handle_time < 5 for job in jobs)


# Streams


@pytest.mark.processes
async def test_a_generator_that_never_waits_does_not_keep_the_others_from_running() -> None:
    async with running(forked(AsyncYielding(async_handlers.yield_at_once))) as flow:
        numbers: list[int] = []

        async def read() -> None:
            async with flow.stream(Job(count=10**9), 60) as stream:
                async for number in stream:
                    numbers.append(number)

        reader = asyncio.create_task(read())
        await eventually(lambda: numbers)
        for _ in range(10):
            before = len(numbers)
            assert await items_of(flow.stream(Job(count=3), 60)) == [0, 1, 2]
            await eventually(lambda: len(numbers) > before)  # noqa: B023
        reader.cancel()
        await asyncio.wait([reader])
        assert numbers == list(range(len(numbers)))


async def test_a_slow_consumer_pauses_its_own_generator_only() -> None:
    async with running(forked(FlowStep(AsyncYielding(async_handlers.yield_at_once), handle_timeout=0.6))) as flow:
        slow = flow.stream(Job(count=10**9), 60)
        assert await anext(slow) == 0
        assert await items_of(flow.stream(Job(count=3000), 60)) == list(range(3000))
        await asyncio.sleep(1.2)  # longer than handle_timeout: a paused stream does not hang
        assert len(slow._outlet) < 2000
        assert [await anext(slow) for _ in range(3000)] == list(range(1, 3001))
        await slow.aclose()
        assert flow.statistics().steps[0].restarts == 0


async def test_an_item_from_another_thread() -> None:
    async with running(forked(InLoop(async_handlers.emit_from_thread))) as flow:
        assert await items_of(flow.stream(Job(is_safe=True))) == [0, 1, 2, 3, 4]
        with pytest.raises(UsageError, match=r"another thread .*loop\.call_soon_threadsafe\(task\.emit"):
            await items_of(flow.stream(Job(is_safe=False)))


async def test_an_item_after_the_finish() -> None:
    async with running(forked(InLoop(async_handlers.finish_and_go_on))) as flow:
        with pytest.raises(UsageError, match=r"after task\.finish\(\)"):
            await items_of(flow.stream(Job(is_late=False)))
        task = Job(is_late=True)  # the answer has left: the worker logs a warning
        assert await items_of(flow.stream(task)) == [0]
        assert task.number == 1


async def test_rounds_are_refused_in_a_coroutine() -> None:
    async with running(forked(InLoop(async_handlers.call_rounds))) as flow:
        with pytest.raises(UsageError, match=r"self\.rounds\(\) is for a plain"):
            await flow.process(Job())


# Callers that leave


async def test_a_coroutine_is_cancelled_when_its_caller_leaves(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    async with running(forked(InLoop(async_handlers.sleep_and_note_end))) as flow:
        call = asyncio.create_task(outcome(flow.process(Job(path=path, payload=np.ones(20_000)), 60)))
        await eventually(lambda: notes(path))
        call.cancel()
        await eventually(lambda: notes(path) == ["begun", "cancelled", "finally"])
        await eventually(lambda: blocks(flow) == 0 and not flow.statistics().steps[0].workers[0].in_flight)


@pytest.mark.processes
async def test_what_is_raised_by_a_cancelled_coroutine_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notes"
    async with running(forked(InLoop(async_handlers.raise_when_cancelled))) as flow:
        call = asyncio.create_task(outcome(flow.process(Job(path=path), 60)))
        await eventually(lambda: notes(path))
        call.cancel()
        await eventually(lambda: not flow.statistics().steps[0].workers[0].in_flight)
        (pid,) = pids(flow)
    said = f"InLoop.handle (pid {pid}) raised RuntimeError: in finally after the end of its task"
    assert caplog.messages == [said]


async def test_a_stop_ends_calls_under_way(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    async with running(forked(InLoop(async_handlers.sleep_and_note_end), stop_timeout=0.2)) as flow:
        call = asyncio.create_task(outcome(flow.process(Job(path=path), 60)))
        await eventually(lambda: notes(path))
        await flow.stop()
        await call
        assert notes(path) == ["begun", "cancelled", "finally"]


# Time limits


@pytest.mark.processes
async def test_a_call_that_takes_too_long_fails_alone() -> None:
    step = FlowStep(InLoop(async_handlers.sleep), handle_timeout=0.5, name="ask")
    async with running(forked(step)) as flow:
        (pid,) = pids(flow)
        jobs = [Job(seconds=60), Job(seconds=0.05), Job(seconds=60)]
        started = time.monotonic()
        late, done, _ = await asyncio.gather(*[outcome(flow.process(job, 60)) for job in jobs])
        assert 0.45 < time.monotonic() - started < 20
        assert isinstance(late, HandlerTimeout)
        assert isinstance(late, TimeoutError)
        assert str(late) == (
            "a call of the handler of step ask was cancelled: it took longer than handle_timeout=0.5 s"
        )
        assert late.__cause__ is not None
        assert "await asyncio.sleep(task.seconds)" in str(late.__cause__.__cause__)
        assert done is jobs[1]
        await asyncio.sleep(0.7)  # an idle worker does not hang
        assert pids(flow) == [pid]


@pytest.mark.processes
async def test_an_item_that_takes_too_long_fails_its_stream() -> None:
    step = FlowStep(AsyncYielding(async_handlers.yield_slowly), handle_timeout=0.4)
    async with running(forked(step)) as flow:
        assert await items_of(flow.stream(Job(count=5, seconds=0.1, at=3), 60)) == [0, 1, 2, 3, 4]
        stream = flow.stream(Job(count=5, seconds=60, at=3), 60)
        assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(HandlerTimeout, match="its next item took longer"):
            await anext(stream)
        assert flow.statistics().steps[0].restarts == 0


@pytest.mark.processes
async def test_a_coroutine_that_blocks_the_event_loop_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    step = FlowStep(InLoop(async_handlers.sleep_or_block), handle_timeout=0.8, max_retries=0)
    async with running(Flow(step)) as flow:
        assert isinstance(await outcome(flow.process(Job(blocks=True, seconds=0.3), 60)), Job)
        died = await outcome(flow.process(Job(blocks=True, seconds=60), 60))
        assert isinstance(died, WorkerDied)
        assert "handle_timeout=0.8 s" in str(died)
        assert "in sleep_or_block" in caplog.text  # its stack
        assert isinstance(await outcome(flow.process(Job(blocks=False, seconds=0), 60)), Job)


async def test_many_turns_of_a_generator_may_take_longer_than_the_limit() -> None:
    step = FlowStep(AsyncYielding(async_handlers.block_in_turns), handle_timeout=0.4)
    async with running(forked(step)) as flow:
        assert await items_of(flow.stream(Job(count=6, seconds=0.1), 60)) == list(range(6))
        assert flow.statistics().steps[0].restarts == 0


# Ends


@pytest.mark.processes
async def test_of_many_coroutines_the_one_that_kills_workers_fails() -> None:
    async with running(Flow(InLoop(async_handlers.die_or_sleep))) as flow:
        jobs = [Job(is_deadly=number == 2) for number in range(5)]
        ends = await asyncio.gather(*[outcome(flow.process(job, 60)) for job in jobs])
        assert [type(end) for end in ends] == [Job, Job, WorkerDied, Job, Job]
        assert flow.statistics().steps[0].restarts == 3  # twice beside others, then alone


@pytest.mark.processes
async def test_coroutines_whose_worker_has_died_run_side_by_side_again(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(Flow(InLoop(async_handlers.wait_for_gate))) as flow:
        calls = [asyncio.create_task(flow.process(Job(is_bad=False, gate=gate), 60)) for _ in range(20)]
        await eventually(lambda: len(gate.entrants()) == 20)
        os.kill(gate.entrants()[0], signal.SIGKILL)
        await eventually(lambda: len(gate.entrants()) == 40)  # one after the other they would never be
        gate.open()
        await asyncio.gather(*calls)
        assert flow.statistics().steps[0].retries == 20


async def test_a_request_cannot_end_its_worker() -> None:
    async with running(forked(InLoop(async_handlers.exit_or_sleep))) as flow:
        (pid,) = pids(flow)
        jobs = [Job(exits=number == 1) for number in range(3)]
        ends = await asyncio.gather(*[outcome(flow.process(job)) for job in jobs])
        assert [type(end) for end in ends] == [Job, HandlerError, Job]
        assert pids(flow) == [pid]


@pytest.mark.processes
async def test_a_fork_does_not_become_a_second_worker() -> None:
    async with running(Flow(InLoop(async_handlers.fork))) as flow:
        jobs = [Job() for _ in range(3)]
        await asyncio.gather(*[flow.process(job, 60) for job in jobs])
        assert [job.is_parent for job in jobs] == [True] * 3
