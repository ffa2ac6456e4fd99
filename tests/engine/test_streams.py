"""Streams: what a caller who iterates over the items of a task sees."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import (
    BaseTask,
    ConfigurationError,
    Flow,
    FlowStep,
    HandlerError,
    InvalidArgument,
    NotRunningError,
    SlowConsumer,
    TaskNotPicklable,
    TaskTimeout,
    UsageError,
    WorkerDied,
)

from .. import handlers
from ..handlers import AsyncYielding, Awaiting, Each, Emitting, Gate, Job, Rounds, Yielding, notes
from ..support import blocks, contenders, eventually, outcome, pids, run_script, running

STEPS = {
    "generator": lambda: FlowStep(Yielding(handlers.count_up), concurrency=32),
    "plain": lambda: FlowStep(Emitting()),
    "batch": lambda: FlowStep(Emitting(), batch_size=8),
    "rounds": lambda: FlowStep(Rounds(), batch_size=8),
    "continuous": lambda: FlowStep(Rounds(), batch_size=8, continuous=True),
    "coroutine": lambda: FlowStep(Awaiting()),
    "async generator": lambda: FlowStep(AsyncYielding(handlers.count_up_in_loop)),
}

every_form = pytest.mark.parametrize("form", STEPS)
in_rounds = pytest.mark.parametrize("form", ["rounds", "continuous"])


async def items_of(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def items_before(stream: Any) -> tuple[list[Any], BaseException | None]:
    """Collect items, and the error that ends them."""
    items = []
    try:
        async for item in stream:
            items.append(item)
    except Exception as exc:
        return items, exc
    return items, None


@every_form
@pytest.mark.parametrize("count", [0, 1, 200])
async def test_items_come_in_order_and_the_task_is_filled_in_after_the_last(form: str, count: int) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        task = Job(count=count)
        assert await items_of(flow.stream(task)) == list(range(count))
        assert task.total == count
        assert [step.step for step in task.metrics.steps] == list(flow.steps)
        statistics = flow.statistics()
        assert (statistics.completed, statistics.in_flight) == (1, 0)


@every_form
async def test_a_caller_who_wants_no_items_gets_the_task(form: str) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        tasks = [Job(count=count) for count in range(20)]
        await asyncio.gather(*[flow.process(task) for task in tasks])
        assert [task.total for task in tasks] == list(range(20))


@every_form
async def test_many_streams_at_once_do_not_mix(form: str) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        tasks = [Job(count=count) for count in range(40)]
        streams = [items_of(flow.stream(task)) for task in tasks]
        others = [Job(count=count) for count in range(10)]
        items = await asyncio.gather(*streams, *[flow.process(task) for task in others])
        assert items[:40] == [list(range(count)) for count in range(40)]
        assert [task.total for task in tasks + others] == [*range(40), *range(10)]


async def test_a_yield_without_a_value_is_no_item() -> None:
    async with running(Flow(FlowStep(Yielding(handlers.count_up_with_pauses)))) as flow:
        assert await items_of(flow.stream(Job(count=5))) == [0, 1, 2, 3, 4]


async def test_any_step_may_emit() -> None:
    steps = [STEPS["generator"](), FlowStep(Each(handlers.pass_on)), STEPS["rounds"](), STEPS["plain"]()]
    async with running(Flow(*steps)) as flow:
        task = Job(count=3)
        assert await items_of(flow.stream(task)) == [0, 1, 2] * 3
        assert len(task.metrics.steps) == 4


async def test_a_task_that_visits_no_step_has_no_items() -> None:
    async with running(Flow(FlowStep(Emitting(), handle_condition=handlers.is_wanted))) as flow:
        assert await items_of(flow.stream(Job(count=3, wanted=False))) == []
        assert await items_of(flow.stream(Job(count=3, wanted=True))) == [0, 1, 2]


async def test_a_stream_of_an_ordinary_handler_is_empty() -> None:
    async with running(Flow(FlowStep(Each(handlers.add_one)))) as flow:
        task = Job(number=1)
        assert await items_of(flow.stream(task)) == []
        assert task.number == 2


# Errors


@every_form
@pytest.mark.parametrize("at", [0, 3])
async def test_an_exception_ends_the_stream_after_the_items_before_it(form: str, at: int) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        items, error = await items_before(flow.stream(Job(count=5, act="raise", at=at)))
        assert items == list(range(at))
        assert isinstance(error, ValueError)
        assert str(error) == f"at {at}"
        assert await items_of(flow.stream(Job(count=2))) == [0, 1]


@in_rounds
async def test_one_task_of_a_batch_fails_and_the_others_go_on(form: str) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        jobs = [Job(count=50), Job(count=50, act="fail", at=7), Job(count=50)]
        ends = await asyncio.gather(*[items_before(flow.stream(job)) for job in jobs])
        assert [items for items, _ in (ends[0], ends[2])] == [list(range(50))] * 2
        items, error = ends[1]
        assert items == list(range(8))  # what it emits in the round in which it fails is sent
        assert str(error) == "at 7"


@every_form
async def test_an_item_that_cannot_travel_fails_its_task_only(form: str) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        jobs = [Job(count=5, act="unpicklable", at=2), Job(count=5)]
        if form.endswith("generator"):
            jobs[0] = Job(count=5, act="yield lock", at=2)
        (items, error), (others, _) = await asyncio.gather(*[items_before(flow.stream(job)) for job in jobs])
        assert items == [0, 1]
        assert isinstance(error, TaskNotPicklable)
        assert str(error).startswith("an item of type lock cannot travel to another process: ")
        assert others == [0, 1, 2, 3, 4]


@in_rounds
async def test_an_item_after_the_finish_fails_its_task_only(form: str) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        jobs = [Job(count=5, act="emit late", at=2), Job(count=5)]
        (items, error), (others, _) = await asyncio.gather(*[items_before(flow.stream(job)) for job in jobs])
        assert items == [0, 1]
        assert isinstance(error, UsageError)
        assert "after task.finish()" in str(error)
        assert others == [0, 1, 2, 3, 4]


async def test_a_batch_that_raises_after_an_item_is_not_run_again(tmp_path: Path) -> None:
    async with running(Flow(FlowStep(Emitting(), batch_size=2, batch_timeout=5))) as flow:
        jobs = [Job(count=3), Job(count=3, act="raise", at=1)]
        ends = await asyncio.gather(*[items_before(flow.stream(job)) for job in jobs])
        assert sorted(items for items, _ in ends) == [[0], [0, 1, 2]]
        assert all(isinstance(error, ValueError) for _, error in ends)


@pytest.mark.parametrize("name", ["emit", "finish", "is_cancelled"])
async def test_a_task_with_a_field_that_hides_a_method_cannot_be_streamed(name: str) -> None:
    hiding = type("Hiding", (BaseTask,), {name: ""})
    async with running(Flow(FlowStep(Each(handlers.pass_on)))) as flow:
        with pytest.raises(InvalidArgument, match=f"Hiding has an attribute `{name}`"):
            flow.stream(hiding())


async def test_a_field_that_hides_a_method_fails_its_task_only() -> None:
    async with running(Flow(FlowStep(Emitting(), batch_size=2, batch_timeout=5))) as flow:
        hiding, plain = Job(count=2, emit="text"), Job(count=2)
        error, _ = await asyncio.gather(outcome(flow.process(hiding)), flow.process(plain))
        assert isinstance(error, TypeError)
        assert plain.total == 2
        with pytest.raises(InvalidArgument, match="an attribute `emit`, which hides BaseTask.emit, .*: rename it"):
            flow.stream(hiding)
    async with running(Flow(STEPS["plain"]())) as flow:
        stream = flow.stream(Job(count=2, act="unpicklable", at=0, fail="text"))
        assert isinstance((await items_before(stream))[1], TaskNotPicklable)
        assert flow.statistics().steps[0].restarts == 0


async def test_what_is_no_task_is_refused_at_once() -> None:
    async with running(Flow(STEPS["plain"]())) as flow:
        with pytest.raises(ConfigurationError):
            flow.stream("text")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError):
            flow.stream(Job(count=1), item_timeout="soon")  # type: ignore[arg-type]


async def test_a_flow_that_is_not_running_has_no_streams() -> None:
    with pytest.raises(NotRunningError):
        Flow(STEPS["plain"]()).stream(Job(count=1))


def test_a_generator_for_batches_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"needs batch_size=1, got 4: .* task.emit"):
        FlowStep(Yielding(handlers.count_up), batch_size=4)
    with pytest.raises(ConfigurationError, match="needs concurrency >= 1"):
        FlowStep(Yielding(handlers.count_up), concurrency=0)
    with pytest.raises(ConfigurationError, match="leave out batch_timeout"):
        FlowStep(Rounds(), batch_size=4, continuous=True, batch_timeout=0.1)


async def test_a_stream_can_be_read_once() -> None:
    async with running(Flow(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=3))
        async for item in stream:
            assert item == 0
            break
        assert await items_of(stream) == [1, 2]  # what is left
        with pytest.raises(UsageError, match="can be read once"):
            await items_of(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_two_readers_of_one_stream_are_refused(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(Flow(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=2, act="gate", at=0, gate=gate), 60)
        first = asyncio.create_task(anext(stream))
        await eventually(gate.is_entered)
        with pytest.raises(UsageError, match="two asyncio tasks"):
            await anext(stream)
        gate.open()
        assert await first == 0
        assert await items_of(stream) == [1]

# What a caller sees before it iterates


async def test_a_stream_tells_when_its_next_step_does_not_wait(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(Flow(STEPS["generator"]())) as flow:
        task = Job(count=3, act="gate", at=2, gate=gate)
        stream = flow.stream(task, 60)
        assert not stream.is_ready
        await stream.wait()
        await stream.wait()  # it is ready: nothing happens
        assert stream.is_ready
        assert await anext(stream) == 0
        assert await anext(stream) == 1
        await eventually(gate.is_entered)
        assert not stream.is_ready
        gate.open()
        assert await anext(stream) == 2
        await stream.wait()
        assert stream.is_ready  # for the end
        assert await items_of(stream) == []
        assert stream.is_ready


async def test_an_error_before_the_first_item_is_raised_before_the_iteration() -> None:
    async with running(Flow(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=3, act="raise", at=0), 60)
        with pytest.raises(ValueError, match="at 0"):
            await stream.wait()
        await stream.wait()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await stream.aclose()
        await stream.aclose()
        assert flow.statistics().failed == 1
        assert flow.statistics().cancelled == 0


async def test_an_error_after_the_first_item_is_raised_in_its_place() -> None:
    async with running(Flow(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=3, act="raise", at=1), 60)
        await stream.wait()
        await eventually(lambda: flow.statistics().failed)
        await stream.wait()
        assert await anext(stream) == 0
        with pytest.raises(ValueError, match="at 1"):
            await stream.wait()


async def test_a_stream_without_items_is_ready_and_empty() -> None:
    async with running(Flow(STEPS["generator"]())) as flow:
        task = Job(count=0)
        stream = flow.stream(task, 60)
        await stream.wait()
        assert task.total == 0
        assert await items_of(stream) == []


async def test_a_stream_that_is_closed_before_it_begins_submits_nothing() -> None:
    async with running(Flow(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=3))
        await stream.aclose()
        assert stream.is_ready
        await stream.wait()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        async with flow.stream(Job(count=3)) as stream:
            pass
        with pytest.raises(UsageError, match="can be read once"):
            await items_of(stream)
        assert flow.statistics().in_flight == flow.statistics().cancelled == flow.statistics().completed == 0


# Deadlines


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


# Consumers that are slow, or leave


async def test_a_slow_consumer_pauses_its_own_stream_only() -> None:
    async with running(Flow(FlowStep(Yielding(handlers.run_for_ever), handle_timeout=0.5, concurrency=2))) as flow:
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
        await asyncio.sleep(0.8)  # longer than handle_timeout: a paused stream does not hang
        assert len(slow._outlet) < 1000
        assert flow.statistics().steps[0].restarts == 0
        assert [await anext(slow) for _ in range(3000)] == list(range(1, 3001))
        await slow.aclose()
        await eventually(lambda: flow.statistics().in_flight == 0)


async def test_a_plain_handler_of_one_task_waits_for_its_consumer() -> None:
    async with running(Flow(FlowStep(Emitting(), handle_timeout=0.5))) as flow:
        stream = flow.stream(Job(count=20_000), 60)
        assert await anext(stream) == 0
        await asyncio.sleep(1.0)  # longer than handle_timeout
        assert len(stream._outlet) < 1000
        assert await items_of(stream) == list(range(1, 20_000))
        assert flow.statistics().steps[0].restarts == 0


@pytest.mark.parametrize(
    "step",
    [
        lambda: FlowStep(Rounds(), batch_size=2, batch_timeout=10),
        lambda: FlowStep(Rounds(), batch_size=2, continuous=True),
    ],
    ids=["rounds", "continuous"],
)
async def test_a_consumer_in_a_batch_that_is_too_slow_loses_its_stream_only(step: Any) -> None:
    async with running(Flow(step())) as flow:
        slow, fast = flow.stream(Job(count=10**9), 60), flow.stream(Job(count=6000), 60)
        reader = asyncio.create_task(items_of(fast))
        assert await anext(slow) == 0
        assert await reader == list(range(6000))
        items, error = await items_before(slow)
        assert items == []
        assert isinstance(error, SlowConsumer)
        assert flow.statistics().steps[0].restarts == 0


@pytest.mark.parametrize("form", ["generator", "rounds", "continuous"])
async def test_a_break_ends_the_task(form: str) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        job = Job(count=10**9, payload=np.ones(20_000))
        async for _ in flow.stream(job, 60):
            break
        del job
        await eventually(lambda: flow.statistics().in_flight == 0)
        assert flow.statistics().cancelled == 1
        await eventually(lambda: blocks(flow) == 0 and not flow.statistics().steps[0].workers[0].in_flight)
        assert (await flow.process(Job(count=3), 60)).total == 3


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


async def leave_in_a_cycle(flow: Flow, job: Job) -> None:
    stream: Any = flow.stream(job, 60)
    await anext(stream)
    stream.itself = stream
    del stream
    gc.collect()


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_cancellation, leave_by_context, leave_in_a_cycle])
async def test_leaving_closes_the_generator_soon(leave: Any, tmp_path: Path) -> None:
    async with running(Flow(FlowStep(Yielding(handlers.run_for_ever)))) as flow:
        path = tmp_path / "notes"
        await leave(flow, Job(path=path, payload=np.ones(20_000)))
        started = time.monotonic()
        await eventually(lambda: notes(path) == ["closed"])
        assert time.monotonic() - started < 1.0
        await eventually(lambda: blocks(flow) == 0)
        assert flow.statistics().cancelled == 1
        assert flow.statistics().in_flight == 0


async def test_leaving_while_the_task_waits_in_the_queue(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(Flow(FlowStep(Yielding(handlers.run_for_ever), concurrency=1))) as flow:
        first = asyncio.create_task(anext(flow.stream(Job(gate=gate), 60)))
        await eventually(gate.is_entered)
        path = tmp_path / "notes"
        second = asyncio.create_task(items_of(flow.stream(Job(path=path, payload=np.ones(20_000)), 60)))
        await eventually(lambda: flow.statistics().steps[0].queued == 1)
        second.cancel()
        await eventually(lambda: flow.statistics().steps[0].queued == 0)
        gate.open()
        assert await first == 0
        await eventually(lambda: blocks(flow) == 0)
        assert notes(path) == []


async def test_leaving_a_stream_that_was_never_begun_does_nothing() -> None:
    async with running(Flow(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=3))
        await stream.aclose()
        del stream
        flow.stream(Job(count=3))
        assert flow.statistics().cancelled == 0


async def test_an_endless_generator_without_a_consumer_is_bounded() -> None:
    async with running(Flow(FlowStep(Yielding(handlers.run_for_ever)))) as flow:
        stream = flow.stream(Job(), 60)
        assert await anext(stream) == 0
        waiting = -1
        while waiting != len(stream._outlet):  # until it stands still
            waiting = len(stream._outlet)
            await asyncio.sleep(0.2)
        assert 64 <= waiting < 1000
        await stream.aclose()


# Large items


@pytest.mark.parametrize("is_slice", [False, True])
async def test_large_items_keep_little_memory(is_slice: bool) -> None:
    async with running(Flow(FlowStep(Yielding(handlers.repeat_payload)))) as flow:
        payload: Any = np.zeros(1_000_000, np.uint8) if is_slice else bytes(1_000_000)
        job = Job(count=200, payload=payload, is_slice=is_slice)
        async for item in flow.stream(job, 60):
            assert len(item) > 999_000
        # Not looked at before: statistics end the leases of items that are gone, which the stream must do by itself.
        assert flow.statistics().arena.touched <= 32 << 20
        del item, job
        gc.collect()
        await eventually(lambda: blocks(flow) == 0)


@in_rounds
async def test_a_task_that_has_left_a_batch_keeps_no_blocks(form: str, tmp_path: Path) -> None:
    async with running(Flow(STEPS[form]())) as flow:
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


# Continuous batching


async def test_tasks_join_a_call_that_is_under_way() -> None:
    async with running(Flow(STEPS["continuous"]())) as flow:
        stream = flow.stream(Job(count=10**9), 60)
        assert await anext(stream) == 0
        jobs = [Job(count=300) for _ in range(20)]
        await asyncio.gather(*[flow.process(job, 60) for job in jobs])
        assert max(job.widest for job in jobs) == 8
        await stream.aclose()


async def test_a_continuous_call_ends_when_it_has_no_tasks() -> None:
    async with running(Flow(STEPS["continuous"]())) as flow:
        for count in (3, 1, 2):
            assert await items_of(flow.stream(Job(count=count))) == list(range(count))
        await flow.stop()


# Deaths


@every_form
async def test_a_task_whose_worker_dies_before_its_first_item_is_tried_again(form: str, tmp_path: Path) -> None:
    async with running(Flow(STEPS[form]())) as flow:
        job = Job(count=5, act="die once", at=0, mark=tmp_path / "mark")
        assert await items_of(flow.stream(job, 60)) == [0, 1, 2, 3, 4]
        assert flow.statistics().steps[0].retries == 1


@every_form
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
    async with running(Flow(FlowStep(Yielding(handlers.take_turns_or_die), concurrency=8))) as flow:
        innocent = [Job(count=3, seconds=0.02, is_deadly=False) for _ in range(4)]
        calls = [asyncio.create_task(outcome(flow.process(job, 60))) for job in innocent]
        deadly = await items_before(flow.stream(Job(count=3, seconds=0.02, is_deadly=True), 60))
        assert isinstance(deadly[1], WorkerDied)
        assert [await call for call in calls] == innocent
        assert [job.total for job in innocent] == [3] * 4


async def test_a_deadly_task_of_a_continuous_batch_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    async with running(Flow(STEPS["continuous"]())) as flow:
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
    async with running(Flow(FlowStep(Yielding(handlers.take_turns), handle_timeout=0.4))) as flow:
        assert await items_of(flow.stream(Job(count=10, seconds=0.1), 60)) == list(range(10))
        await asyncio.sleep(0.6)  # an idle worker does not hang
        assert flow.statistics().steps[0].restarts == 0


# Stop


@every_form
async def test_a_stop_ends_open_streams(form: str, tmp_path: Path) -> None:
    async with running(Flow(STEPS[form](), stop_timeout=0.3)) as flow:
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
    async with running(Flow(STEPS[form]())) as flow:
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
    async with running(Flow(FlowStep(Each(handlers.enter_gate_if_any)), STEPS[form]())) as flow:
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
    async with running(Flow(FlowStep(Each(handlers.enter_gate_if_any)), queue_size=1)) as flow:
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
        flow = Flow(FlowStep(Counter(), concurrency=2), stop_timeout=1)
        async with flow:
            streams = [flow.stream(Count(count), 60) for count in (20, 10**9)]
            reading = [asyncio.create_task(read(stream)) for stream in streams]
            while flow.statistics().in_flight < 2:
                await asyncio.sleep(0)
            begun = time.monotonic()
        print(*await asyncio.gather(*reading), "in time" if time.monotonic() - begun < 5 else "late")

    if __name__ == "__main__":
        asyncio.run(main())
"""


async def test_a_result_that_cannot_be_rebuilt_ends_the_stream() -> None:
    async with running(Flow(FlowStep(Yielding(handlers.yield_not_rebuildable)))) as flow:
        items, error = await items_before(flow.stream(Job(count=1, caller=os.getpid()), 60))
        assert items == [0]
        assert isinstance(error, HandlerError)
        await eventually(lambda: flow.statistics().in_flight == 0)
