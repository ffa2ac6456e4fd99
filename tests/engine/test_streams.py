"""Streams: what a caller who iterates over the items of a task sees."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from fastapi_aqueduct import (
    BaseTask,
    ConfigurationError,
    FlowStep,
    HandlerError,
    InvalidArgument,
    NotRunningError,
    TaskNotPicklable,
    UsageError,
)

from .. import handlers
from ..handlers import Each, Emitting, Gate, Job, Rounds, Yielding
from ..support import eventually, forked, fresh, outcome, running
from .streaming import STEPS, every_form, in_rounds, items_before, items_of


@every_form
@pytest.mark.parametrize("count", [0, 1, 200])
async def test_items_come_in_order_and_the_task_is_filled_in_after_the_last(form: str, count: int) -> None:
    async with running(forked(STEPS[form]())) as flow:
        task = Job(count=count)
        assert await items_of(flow.stream(task)) == list(range(count))
        assert task.total == count
        assert [step.step for step in task.metrics.steps] == list(flow.steps)
        await fresh(flow)
        statistics = flow.statistics()
        assert (statistics.completed, statistics.in_flight) == (1, 0)


@every_form
async def test_a_caller_who_wants_no_items_gets_the_task(form: str) -> None:
    async with running(forked(STEPS[form]())) as flow:
        tasks = [Job(count=count) for count in range(20)]
        await asyncio.gather(*[flow.process(task) for task in tasks])
        assert [task.total for task in tasks] == list(range(20))


async def test_items_that_no_caller_wants_are_not_encoded() -> None:
    async with running(forked(STEPS["generator"](), STEPS["rounds"]())) as flow:
        first, second = Job(count=3, act="yield lock", at=1), Job(count=3, act="unpicklable", at=1)
        assert (await flow.process(first)).total == (await flow.process(second)).total == 3


@every_form
async def test_many_streams_at_once_do_not_mix(form: str) -> None:
    async with running(forked(STEPS[form]())) as flow:
        tasks = [Job(count=count) for count in range(40)]
        streams = [items_of(flow.stream(task)) for task in tasks]
        others = [Job(count=count) for count in range(10)]
        items = await asyncio.gather(*streams, *[flow.process(task) for task in others])
        assert items[:40] == [list(range(count)) for count in range(40)]
        assert [task.total for task in tasks + others] == [*range(40), *range(10)]


async def test_a_yield_without_a_value_is_no_item() -> None:
    async with running(forked(FlowStep(Yielding(handlers.count_up_with_pauses)))) as flow:
        assert await items_of(flow.stream(Job(count=5))) == [0, 1, 2, 3, 4]


async def test_any_step_may_emit() -> None:
    steps = [STEPS["generator"](), FlowStep(Each(handlers.pass_on)), STEPS["rounds"](), STEPS["plain"]()]
    async with running(forked(*steps)) as flow:
        task = Job(count=3)
        assert await items_of(flow.stream(task)) == [0, 1, 2] * 3
        assert len(task.metrics.steps) == 4


async def test_a_task_that_leaves_its_batch_early_has_its_size_in_its_metrics() -> None:
    async with running(forked(FlowStep(Rounds(), batch_size=3, batch_timeout=60))) as flow:
        tasks = [Job(count=count) for count in (1, 5, 9)]
        await asyncio.gather(*[flow.process(task) for task in tasks])
        assert [task.metrics.steps[0].batch_size for task in tasks] == [3, 3, 3]


async def test_a_task_that_visits_no_step_has_no_items() -> None:
    async with running(forked(FlowStep(Emitting(), handle_condition=handlers.is_wanted))) as flow:
        assert await items_of(flow.stream(Job(count=3, wanted=False))) == []
        assert await items_of(flow.stream(Job(count=3, wanted=True))) == [0, 1, 2]


async def test_a_stream_of_an_ordinary_handler_is_empty() -> None:
    async with running(forked(FlowStep(Each(handlers.add_one)))) as flow:
        task = Job(number=1)
        assert await items_of(flow.stream(task)) == []
        assert task.number == 2


# Errors


@every_form
@pytest.mark.parametrize("at", [0, 3])
async def test_an_exception_ends_the_stream_after_the_items_before_it(form: str, at: int) -> None:
    async with running(forked(STEPS[form]())) as flow:
        items, error = await items_before(flow.stream(Job(count=5, act="raise", at=at)))
        assert items == list(range(at))
        assert isinstance(error, ValueError)
        assert str(error) == f"at {at}"
        assert await items_of(flow.stream(Job(count=2))) == [0, 1]


@in_rounds
async def test_one_task_of_a_batch_fails_and_the_others_go_on(form: str) -> None:
    async with running(forked(STEPS[form]())) as flow:
        jobs = [Job(count=50), Job(count=50, act="fail", at=7), Job(count=50)]
        ends = await asyncio.gather(*[items_before(flow.stream(job)) for job in jobs])
        assert [items for items, _ in (ends[0], ends[2])] == [list(range(50))] * 2
        items, error = ends[1]
        assert items == list(range(8))  # what it emits in the round in which it fails is sent
        assert str(error) == "at 7"


@every_form
async def test_an_item_that_cannot_travel_fails_its_task_only(form: str) -> None:
    async with running(forked(STEPS[form]())) as flow:
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
    async with running(forked(STEPS[form]())) as flow:
        jobs = [Job(count=5, act="emit late", at=2), Job(count=5)]
        (items, error), (others, _) = await asyncio.gather(*[items_before(flow.stream(job)) for job in jobs])
        assert items == [0, 1]
        assert isinstance(error, UsageError)
        assert "after task.finish()" in str(error)
        assert others == [0, 1, 2, 3, 4]


async def test_a_batch_that_raises_after_an_item_is_not_run_again(tmp_path: Path) -> None:
    async with running(forked(FlowStep(Emitting(), batch_size=2, batch_timeout=5))) as flow:
        jobs = [Job(count=3), Job(count=3, act="raise", at=1)]
        ends = await asyncio.gather(*[items_before(flow.stream(job)) for job in jobs])
        assert sorted(items for items, _ in ends) == [[0], [0, 1, 2]]
        assert all(isinstance(error, ValueError) for _, error in ends)


@pytest.mark.parametrize("name", ["emit", "finish", "is_cancelled"])
async def test_a_task_with_a_field_that_hides_a_method_cannot_be_streamed(name: str) -> None:
    hiding = type("Hiding", (BaseTask,), {name: ""})
    async with running(forked(FlowStep(Each(handlers.pass_on)))) as flow:
        with pytest.raises(InvalidArgument, match=f"Hiding has an attribute `{name}`"):
            flow.stream(hiding())


async def test_a_field_that_hides_a_method_fails_its_task_only() -> None:
    async with running(forked(FlowStep(Emitting(), batch_size=2, batch_timeout=5))) as flow:
        hiding, plain = Job(count=2, emit="text"), Job(count=2)
        error, _ = await asyncio.gather(outcome(flow.process(hiding)), flow.process(plain))
        assert isinstance(error, TypeError)
        assert plain.total == 2
        with pytest.raises(InvalidArgument, match="an attribute `emit`, which hides BaseTask.emit, .*: rename it"):
            flow.stream(hiding)
    async with running(forked(STEPS["plain"]())) as flow:
        stream = flow.stream(Job(count=2, act="unpicklable", at=0, fail="text"))
        assert isinstance((await items_before(stream))[1], TaskNotPicklable)
        assert flow.statistics().steps[0].restarts == 0


async def test_what_is_no_task_is_refused_at_once() -> None:
    async with running(forked(STEPS["plain"]())) as flow:
        with pytest.raises(ConfigurationError):
            flow.stream("text")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError):
            flow.stream(Job(count=1), item_timeout="soon")  # type: ignore[arg-type]


async def test_a_flow_that_is_not_running_has_no_streams() -> None:
    with pytest.raises(NotRunningError):
        forked(STEPS["plain"]()).stream(Job(count=1))


def test_a_generator_for_batches_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"needs batch_size=1, got 4: .* task.emit"):
        FlowStep(Yielding(handlers.count_up), batch_size=4)
    with pytest.raises(ConfigurationError, match="needs concurrency >= 1"):
        FlowStep(Yielding(handlers.count_up), concurrency=0)
    with pytest.raises(ConfigurationError, match="leave out batch_timeout"):
        FlowStep(Rounds(), batch_size=4, continuous=True, batch_timeout=0.1)


@pytest.mark.processes
async def test_a_result_that_cannot_be_rebuilt_ends_the_stream() -> None:
    async with running(forked(FlowStep(Yielding(handlers.yield_not_rebuildable)))) as flow:
        items, error = await items_before(flow.stream(Job(count=1, caller=os.getpid()), 60))
        assert items == [0]
        assert isinstance(error, HandlerError)
        await eventually(lambda: flow.statistics().in_flight == 0)


# Reading


async def test_a_stream_can_be_read_once() -> None:
    async with running(forked(STEPS["generator"]())) as flow:
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
    async with running(forked(STEPS["generator"]())) as flow:
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
    async with running(forked(STEPS["generator"]())) as flow:
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
    async with running(forked(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=3, act="raise", at=0), 60)
        with pytest.raises(ValueError, match="at 0"):
            await stream.wait()
        await stream.wait()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await stream.aclose()
        await stream.aclose()
        await fresh(flow)
        assert flow.statistics().failed == 1
        assert flow.statistics().cancelled == 0


async def test_an_error_after_the_first_item_is_raised_in_its_place() -> None:
    async with running(forked(STEPS["generator"]())) as flow:
        stream = flow.stream(Job(count=3, act="raise", at=1), 60)
        await stream.wait()
        await eventually(lambda: flow.statistics().failed)
        await stream.wait()
        assert await anext(stream) == 0
        with pytest.raises(ValueError, match="at 1"):
            await stream.wait()


async def test_a_stream_without_items_is_ready_and_empty() -> None:
    async with running(forked(STEPS["generator"]())) as flow:
        task = Job(count=0)
        stream = flow.stream(task, 60)
        await stream.wait()
        assert task.total == 0
        assert await items_of(stream) == []


async def test_a_stream_that_is_closed_before_it_begins_submits_nothing() -> None:
    async with running(forked(STEPS["generator"]())) as flow:
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
        await fresh(flow)
        assert flow.statistics().in_flight == flow.statistics().cancelled == flow.statistics().completed == 0


# Continuous batching


async def test_tasks_join_a_call_that_is_under_way() -> None:
    async with running(forked(STEPS["continuous"]())) as flow:
        stream = flow.stream(Job(count=10**9), 60)
        assert await anext(stream) == 0
        jobs = [Job(count=300) for _ in range(20)]
        await asyncio.gather(*[flow.process(job, 60) for job in jobs])
        assert max(job.widest for job in jobs) == 8
        await stream.aclose()


async def test_a_continuous_call_ends_when_it_has_no_tasks() -> None:
    async with running(forked(STEPS["continuous"]())) as flow:
        for count in (3, 1, 2):
            assert await items_of(flow.stream(Job(count=count))) == list(range(count))
        await flow.stop()
