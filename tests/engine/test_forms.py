"""What holds for each form of handler."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep, Progress, TaskTimeout, UsageError, WorkerDied

from .. import handlers
from ..handlers import Gate, Job, Yielding, notes
from ..support import blocks, eventually, forked, outcome, running
from . import forms

FORMS: dict[str, Any] = {
    "plain": lambda **options: FlowStep(forms.Plain(), **options),
    "batch": lambda **options: FlowStep(forms.Plain(), batch_size=4, batch_timeout=0.05, **options),
    "generator": lambda **options: FlowStep(forms.Generator(), concurrency=8, **options),
    "rounds": lambda **options: FlowStep(forms.Rounds(), batch_size=4, batch_timeout=0.05, **options),
    "continuous": lambda **options: FlowStep(forms.Rounds(), batch_size=8, continuous=True, **options),
    "coroutine": lambda **options: FlowStep(forms.Coroutine(), **options),
    "async generator": lambda **options: FlowStep(forms.AsyncGenerator(), **options),
}

every_form = pytest.mark.parametrize("form", FORMS)
in_rounds = pytest.mark.parametrize("form", ["rounds", "continuous"])


def step(form: str, handler: Any) -> FlowStep:
    return FlowStep(handler, batch_size=4, **({"continuous": True} if form == "continuous" else {"batch_timeout": 0.1}))


async def items_of(stream: Any) -> list[Any]:
    return [item async for item in stream]


@every_form
async def test_nothing_of_a_task_is_kept(form: str, tmp_path: Path) -> None:
    """No block is held at the end, though no worker collects garbage; and a task sees that its caller has left."""
    payload = np.ones(20_000)
    async with running(forked(FORMS[form]())) as flow:
        calls = []
        for act in ("double", "fail", "throw") * 3:
            calls.append(outcome(flow.process(Job(act=act, payload=payload), 60)))
            calls.append(outcome(items_of(flow.stream(Job(act=act, payload=payload), 60))))
        done = [type(end) for end in await asyncio.gather(*calls)]
        assert done[:6] == [Job, list, ValueError, ValueError, ValueError, ValueError]
        path = tmp_path / "notes"
        leaving = Job(act="wait_until_cancelled", payload=payload, path=path)
        call = asyncio.create_task(outcome(items_of(flow.stream(leaving, 60))))
        await eventually(lambda: notes(path))
        call.cancel()
        await eventually(lambda: notes(path) == ["begun", "cancelled"])
        assert isinstance(await flow.process(Job(act="double", payload=payload), 60), Job)
        del calls, call, leaving
        await eventually(lambda: blocks(flow) == 0)
        await eventually(lambda: flow.statistics().arena.retained == 0)


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=() if form == "continuous" else pytest.mark.long) for form in FORMS]
)
async def test_a_turn_that_hangs_is_killed_and_its_task_fails_alone(form: str) -> None:
    async with running(Flow(FORMS[form](handle_timeout=0.5))) as flow:
        jobs = [Job(act="hang" if number == 2 else "double", payload=np.ones(3)) for number in range(5)]
        ends = await asyncio.gather(*[outcome(flow.process(job, 60)) for job in jobs])
        assert [type(end) for end in ends] == [Job, Job, WorkerDied, Job, Job]
        assert "handle_timeout=0.5 s" in str(ends[2])


@pytest.mark.parametrize("form", ["plain", "generator", "continuous", "coroutine"])
async def test_progress_leaves_at_once_and_not_too_often(form: str, tmp_path: Path) -> None:
    async with running(forked(FORMS[form]())) as flow:
        gate = Gate(tmp_path)
        stream = flow.stream(Job(act="report", gate=gate), 60)
        first = [await anext(stream)]
        while first[-1].done < first[-1].of:
            first.append(await anext(stream))
        assert (first[0], first[-1]) == (Progress(1, 1000), Progress(1000, 1000))
        assert len(first) < 50
        gate.open()
        assert await items_of(stream) == ["end"]
        await flow.process(Job(act="report", gate=gate), 60)


@pytest.mark.parametrize("form", ["plain", "generator", "coroutine"])
async def test_a_thread_of_the_worker_is_refused(form: str) -> None:
    async with running(forked(FORMS[form]())) as flow:
        task = Job(act="use_thread")
        assert await items_of(flow.stream(task, 60)) == ([None] if form in ("plain", "coroutine") else [])
        assert [error.partition("()")[0] for error in task.errors] == ["task.emit", "task.progress", "task.finish"]
        assert all("in another thread than that of `handle`" in error for error in task.errors)
        assert task.was_cancelled is False


# Rounds


async def test_of_a_continuous_call_that_raises_each_task_without_an_item_runs_again_alone(tmp_path: Path) -> None:
    async with running(forked(FORMS["continuous"]())) as flow:
        gate = Gate(tmp_path)
        jobs = [Job(act="throw" if number == 3 else "double", payload=np.ones(3)) for number in range(7)]
        held = asyncio.create_task(outcome(flow.process(Job(act="report", gate=gate), 60)))
        await eventually(gate.is_entered)  # the others join in one round
        calls = [asyncio.create_task(outcome(flow.process(job, 60))) for job in jobs]
        await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight == 8)
        gate.open()
        ends = [type(await call) for call in (held, *calls)]
        assert ends == [Job, Job, Job, Job, ValueError, Job, Job, Job]


@in_rounds
async def test_a_task_that_is_finished_before_the_rounds(form: str) -> None:
    async with running(forked(step(form, forms.FinishingEarly()))) as flow:
        jobs = [Job(number=0, is_early=number % 2) for number in range(8)]
        await asyncio.gather(*[flow.process(job, 60) for job in jobs])
        joined = {10} if form == "continuous" else set()  # in a round, and not in the arguments
        assert {job.number for job in jobs[::2]} <= {11} | joined
        assert {job.number for job in jobs[1::2]} <= {1} | joined


@in_rounds
async def test_tasks_that_no_round_finishes_end_at_their_deadline(form: str) -> None:
    async with running(forked(step(form, forms.Ignoring()))) as flow:
        jobs = [Job(leaves=False) for _ in range(4)]
        ends = await asyncio.gather(*[outcome(flow.process(job, 0.4)) for job in jobs])
        assert [type(end) for end in ends] == [TaskTimeout] * 4
        await eventually(lambda: not flow.statistics().steps[0].workers[0].in_flight)
        left = [Job(leaves=True, number=0) for _ in range(4)]
        await asyncio.gather(*[flow.process(job, 60) for job in left])
        assert [job.number for job in left] == [1] * 4


@in_rounds
async def test_an_exception_does_not_fail_a_task_that_is_finished(form: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running(forked(step(form, forms.RaisingLate()))) as flow:
        assert (await flow.process(Job(number=0))).number == 1
    (said,) = caplog.messages
    assert said.startswith("RaisingLate.handle")
    assert said.endswith("raised ValueError: too late after the end of its task")


# Generators


async def test_an_exception_in_one_of_several_generators() -> None:
    async with running(forked(FlowStep(Yielding(handlers.count_up), concurrency=8))) as flow:
        jobs = [Job(count=50, act="raise", at=20 if number == 1 else None) for number in range(4)]
        ends = await asyncio.gather(*[outcome(items_of(flow.stream(job, 60))) for job in jobs])
        assert [type(end) for end in ends] == [list, ValueError, list, list]


async def test_a_stop_closes_generators(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    async with running(forked(FlowStep(Yielding(handlers.run_for_ever), concurrency=2), stop_timeout=0.2)) as flow:
        streams = [flow.stream(Job(path=path), 60) for _ in range(2)]
        for stream in streams:
            assert await anext(stream) == 0
        await flow.stop()
        assert notes(path) == ["closed", "closed"]


async def test_a_value_that_is_yielded_after_the_finish() -> None:
    async with running(forked(forms.YieldingLate())) as flow:
        task = Job(item=None)
        assert await items_of(flow.stream(task)) == [1]
        assert task.number == 1
        with pytest.raises(UsageError, match=r"yielded after task\.finish\(\)"):
            await items_of(flow.stream(Job(item=2)))


async def test_by_default_one_generator_ends_before_the_next_begins(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(forked(Yielding(handlers.count_up))) as flow:
        first = flow.stream(Job(count=3, act="gate", at=2, gate=gate), 60)
        assert await anext(first) == 0
        second = asyncio.create_task(items_of(flow.stream(Job(count=3), 60)))
        await eventually(gate.is_entered)
        await eventually(lambda: flow.statistics().steps[0].queued == 1)
        gate.open()
        assert await second == [0, 1, 2]
        assert await items_of(first) == [1, 2]


async def test_the_time_of_its_own_turns_is_the_handle_time_of_a_generator() -> None:
    async with running(forked(FlowStep(Yielding(handlers.take_turns), concurrency=4))) as flow:
        jobs = [Job(count=4, seconds=0.02) for _ in range(4)]
        started = time.monotonic()
        await asyncio.gather(*[flow.process(job, 60) for job in jobs])
        elapsed = time.monotonic() - started
        times = [job.metrics.steps[0].handle_time for job in jobs]
        assert all(time >= 0.079 for time in times)
        assert sum(times) <= elapsed
