"""What goes wrong in a handler, and how its caller hears of it. The worker survives all of it."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from typing import Any

import pytest

from fastapi_aqueduct import BaseTask, Cost, FlowStep, HandlerError, TaskNotPicklable
from fastapi_aqueduct.exceptions import WorkerTraceback

from .. import handlers
from ..handlers import Each, Job
from ..support import DEADLINE, LongestGap, blocks, eventually, forked, fresh, outcome, pids, running


async def test_an_exception_carries_the_traceback_of_the_worker() -> None:
    async with running(forked(Each(handlers.raise_error))) as flow:
        error = await outcome(flow.process(Job(error="value")))
        assert type(error) is ValueError
        assert isinstance(error.__cause__, WorkerTraceback)
        shown = "".join(traceback.format_exception(error))
        assert "handlers.py" in shown
        assert "in raise_error" in shown
        await fresh(flow)
        assert flow.statistics().failed == 1


async def test_the_traceback_shows_the_causes_of_the_exception() -> None:
    async with running(forked(Each(handlers.raise_error))) as flow:
        error = await outcome(flow.process(Job(error="chained")))
        assert str(error) == "outer"
        assert repr(error.__cause__) == "KeyError('inner')"
        assert "KeyError: 'inner'" in str(error.__cause__.__cause__)


async def test_an_exception_with_a_constructor_of_its_own_keeps_its_type_and_fields() -> None:
    async with running(forked(Each(handlers.raise_error))) as flow:
        error = await outcome(flow.process(Job(error="pair")))
        assert type(error) is handlers.PairError
        assert (error.code, error.text) == (7, "seven")


async def test_an_exception_that_its_class_would_not_make_again_arrives_as_itself() -> None:
    async with running(forked(Each(handlers.raise_error))) as flow:
        error = await outcome(flow.process(Job(error="odd")))
        assert (type(error), str(error)) == (handlers.OddError, "very odd")


async def test_the_frames_of_the_worker_are_in_the_traceback() -> None:
    async with running(forked(Each(handlers.raise_error))) as flow:
        error = await outcome(flow.process(Job(error="value")))
        *others, handle, last = traceback.extract_tb(error.__traceback__)
        assert not [frame for frame in others if "engine/child" in frame.filename]  # the worker's own
        assert (handle.name, handle.line) == ("handle", "function(task)")
        assert (last.name, last.line) == ("raise_error", "raise errors[task.error]()")
        assert last.filename == handlers.__file__


async def test_an_exception_with_a_large_document_does_not_hold_up_the_loop_or_keep_memory() -> None:
    async with running(forked(FlowStep(Each(handlers.raise_large), handle_timeout=20))) as flow:
        before = pids(flow)
        async with LongestGap() as gap:
            error = await outcome(flow.process(Job(size=40 << 20), 60))
        assert type(error) is HandlerError
        assert error.type_name == "builtins.ValueError"
        assert len(str(error)) < 20_000
        assert gap.seconds < 1
        error = await outcome(flow.process(Job(image=bytes(100_000), size=0)))
        assert type(error) is ValueError
        assert error.args[1] == bytes(100_000)
        await eventually(lambda: blocks(flow) == 0)
        assert error.args[1] == bytes(100_000)
        assert pids(flow) == before


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        ("locked", "tests.handlers.LockedError", "holds a lock"),
        ("exit", "builtins.SystemExit", "3"),
        ("interrupt", "builtins.KeyboardInterrupt", "no"),
        ("stop", "builtins.StopIteration", "over"),
        ("stop_async", "builtins.StopAsyncIteration", "over"),
    ],
)
async def test_what_cannot_travel_is_stood_in_for(error: str, name: str, message: str) -> None:
    async with running(forked(Each(handlers.raise_error), name="ocr")) as flow:
        (pid,) = pids(flow)
        stand_in = await outcome(flow.process(Job(error=error)))
        assert type(stand_in) is HandlerError
        assert (stand_in.type_name, stand_in.message) == (name, message)
        assert str(stand_in) == f"{name} in step step1_Each of flow ocr (pid {pid}): {message}"
        assert "in raise_error" in str(stand_in.__cause__)
        assert isinstance(await outcome(flow.process(Job(error="value"))), ValueError)
        assert pids(flow) == [pid]


@pytest.mark.parametrize(
    "options",
    [
        {"handle_condition": handlers.raise_error_if_any},
        {"batch_key": handlers.raise_error_if_any},
        {"batch_cost": Cost(handlers.raise_error_if_any, limit=10)},
    ],
    ids=["handle_condition", "batch_key", "batch_cost"],
)
@pytest.mark.parametrize("error", ["value", "exit"])
async def test_what_a_function_of_a_later_step_raises_fails_the_task_and_ends_no_worker(
    options: dict[str, Any], error: str
) -> None:
    async with running(forked(Each(), FlowStep(Each(), batch_size=2, **options))) as flow:
        (pid,) = pids(flow)
        raised = await outcome(flow.process(Job(error=error)))
        assert type(raised) is (ValueError if error == "value" else HandlerError)
        await flow.process(Job())
        assert pids(flow) == [pid]


async def test_an_exception_fails_its_batch_and_no_other() -> None:
    async with running(forked(FlowStep(Each(handlers.raise_if_bad), nprocs=2))) as flow:
        before = pids(flow)
        tasks = [Job(is_bad=number == 5) for number in range(20)]
        ended = await asyncio.gather(*[outcome(flow.process(task)) for task in tasks])
        assert [type(end) for end in ended] == [Job] * 5 + [ValueError] + [Job] * 14
        assert pids(flow) == before


async def test_a_failed_task_visits_no_further_step() -> None:
    async with running(forked(Each(handlers.raise_if_bad), Each(handlers.add_one))) as flow:
        task = Job(is_bad=True, number=1)
        assert isinstance(await outcome(flow.process(task)), ValueError)
        assert task.number == 1


async def test_an_input_that_cannot_be_pickled_is_refused_by_name_at_once() -> None:
    async with running(forked(Each(handlers.pass_on))) as flow:
        with pytest.raises(TaskNotPicklable, match=r"Job\.lock of type lock"):
            await asyncio.wait_for(flow.process(Job(number=1, lock=threading.Lock()), 300), DEADLINE)
        with pytest.raises(TaskNotPicklable, match=r"Job\.function of type function"):
            await flow.process(Job(function=lambda: None))
        await flow.process(Job())


async def test_a_result_that_cannot_be_pickled_is_refused_by_name_at_once() -> None:
    async with running(forked(Each(handlers.set_unpicklable))) as flow:
        with pytest.raises(TaskNotPicklable, match=r"Job\.lock of type lock"):
            await asyncio.wait_for(flow.process(Job(image=b"x" * 100_000), 300), DEADLINE)


async def test_a_task_class_that_no_worker_can_find_is_refused() -> None:
    class Local(BaseTask):
        pass

    async with running(forked(Each(handlers.pass_on))) as flow:
        with pytest.raises(TaskNotPicklable, match="Local"):
            await flow.process(Local())


@pytest.mark.processes
async def test_a_result_that_cannot_be_rebuilt_is_an_error_of_its_task() -> None:
    async with running(forked(Each(handlers.set_not_rebuildable))) as flow:
        task = Job(pid=os.getpid())
        with pytest.raises(HandlerError, match="could not be rebuilt here: RuntimeError: refuses to be here"):
            await flow.process(task)
        assert not hasattr(task, "result")
        assert (await flow.process(Job(pid=0))).result.pid == 0


@pytest.mark.processes
async def test_an_input_that_cannot_be_rebuilt_in_the_worker_fails_its_task_only() -> None:
    async with running(forked(Each(handlers.pass_on))) as flow:
        (pid,) = pids(flow)
        value: Any = handlers.NotRebuildable(pid)
        assert "refuses to be here" in str(await outcome(flow.process(Job(value=value))))
        await flow.process(Job())
        assert pids(flow) == [pid]


async def test_a_task_that_failed_before_it_is_processed_reaches_no_worker() -> None:
    async with running(forked(Each(handlers.add_one))) as flow:
        task = Job(number=1)
        task.fail(ValueError("a bad upload"))
        with pytest.raises(ValueError, match="a bad upload"):
            await flow.process(task)
        assert task.number == 1
        assert (await flow.process(task)).number == 2  # the failure was reported
