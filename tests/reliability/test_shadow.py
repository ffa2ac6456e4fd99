"""A handler that gets copies of the tasks of a step, and answers no caller."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import BaseTaskHandler, ConfigurationError, Flow, FlowStep, NotRunningError, Shadow, TaskPair
from fastapi_aqueduct.engine.scheduling.pairs import MAX_BYTES
from fastapi_aqueduct.testing import inline

from ..handlers import Gate, Job
from ..support import DEADLINE, blocks, engine_of, eventually, outcome, pids, running
from .tried import Doubled


class Numbers(BaseTaskHandler):
    """Yields numbers, and adds them up."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def handle(self, task: Any) -> Iterator[int]:
        task.result = 0
        for number in range(4):
            yield number * self.factor
            task.result += number * self.factor


class Side(BaseTaskHandler):
    """A coroutine."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    async def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.result = task.number * self.factor


class InRounds(Side):
    """Answers in the second round."""

    def handle(self, *tasks: Any) -> None:  # type: ignore[override]
        for number, live in enumerate(self.rounds(tasks)):
            for task in live if number else ():
                task.result = task.number * self.factor
                task.finish()


def make_flow(handler: BaseTaskHandler | None = None, **options: Any) -> Flow:
    return Flow(FlowStep(handler or Doubled(1), name="model", **options), mp_start_method="forkserver")


def job(number: int) -> Job:
    return Job(number=number, payload=np.full(4000, number))  # large enough for the shared memory


async def call(flow: Flow, numbers: Any) -> None:
    for number in numbers:
        assert (await flow.process(job(number), DEADLINE)).result[-1] == number


async def read(shadow: Shadow, count: int) -> list[TaskPair]:
    return [await asyncio.wait_for(anext(shadow), DEADLINE) for _ in range(count)]


async def ran(shadow: Shadow, count: int) -> None:
    await eventually(lambda: shadow.report().candidate.tasks == count)


async def test_a_shadow_gets_copies_and_its_answers_are_compared() -> None:
    async with running(make_flow()) as flow:
        step = flow.steps["model"]
        async with step.shadow(Doubled(2, fault="raise")) as shadow:
            assert [str(worker.role) for worker in step.statistics().workers] == ["serving", "shadow"]
            for number in (1, 13, 3):  # one after the other: the shadow keeps up
                await call(flow, [number])
                (pair,) = await read(shadow, 1)
                assert pair.baseline.result.tolist() == [number] * 4000
                if number == 13:
                    assert isinstance(pair.candidate, KeyError)
                else:
                    assert pair.candidate.result.tolist() == [2 * number] * 4000
                    assert pair.candidate.payload is not pair.baseline.payload
                assert pair.candidate_time > 0 < pair.baseline_time
            report = shadow.report()
            assert (report.baseline.tasks, report.baseline.failed) == (3, 0)
            assert (report.candidate.tasks, report.candidate.errors) == (3, {"KeyError": 1})
            assert (report.skipped, report.skipped_writable, report.pairs_dropped) == (0, 0, 0)
            await call(flow, [5])
            await eventually(lambda: shadow.report().candidate.tasks == 4)
            assert blocks(flow) > 0  # of the pair that is not read
            del pair
        assert blocks(flow) == 0
        assert [pair async for pair in shadow] == []
        assert shadow.report().pairs_dropped == 1


async def test_callers_do_not_wait_for_a_shadow_that_is_behind(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(make_flow(batch_size=2)) as flow:
        async with flow.steps["model"].shadow(Doubled(2, gate)) as shadow:
            reader = asyncio.create_task(read(shadow, 1))
            await call(flow, range(40))
            await eventually(gate.is_entered)
            assert shadow.report().skipped == 38
            gate.open()
            assert [pair.baseline.number for pair in await reader] == [0]
            del reader  # and with it the pair
            await call(flow, [50])
            await eventually(lambda: shadow.report().candidate.tasks >= 3)


async def test_a_shadow_that_dies_or_is_left_with_copies_in_hand_holds_no_block(tmp_path: Path) -> None:
    flow = make_flow()
    async with running(flow):
        step = flow.steps["model"]
        async with step.shadow(Doubled(2, fault="exit")) as shadow:
            await call(flow, [1])
            await ran(shadow, 1)  # what a worker has done and not sent yet is lost with it
            await call(flow, [13])
            await eventually(lambda: shadow.report().candidate.deaths == 1)
            await eventually(lambda: len(pids(flow)) == 2)
            await call(flow, [2])
            pairs = await read(shadow, 2)
            assert [pair.candidate.number for pair in pairs] == [1, 2]
            assert flow.statistics().failed == step.statistics().restarts == step.statistics().retries == 0
            del pairs
        assert blocks(flow) == 0
        gate = Gate(tmp_path)
        async with step.shadow(Doubled(2, gate)) as shadow:
            ended = asyncio.ensure_future(outcome(anext(shadow)))
            await call(flow, [1, 2, 3])
            await eventually(gate.is_entered)
            await flow.stop()  # kills the shadow, whose answers are not awaited
            assert isinstance(await outcome(ended), StopAsyncIteration | RuntimeError)
        with pytest.raises(NotRunningError):
            await flow.process(job(1))


async def test_pairs_that_are_not_read_are_bounded() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            async with flow.steps["model"].shadow(Doubled(2), keep=3) as shadow:
                for number in range(8):
                    await call(flow, [number])
                    await ran(shadow, number + 1)
                assert shadow.report().pairs_dropped == 5
                assert [pair.candidate.number for pair in await read(shadow, 3)] == [5, 6, 7]
                await call(flow, [1])
                await ran(shadow, 9)
                engine_of(flow).memory.waiters.on_shortage()  # the flow needs the memory
                assert blocks(flow) == 0
                assert shadow.report().pairs_dropped == 6
            async with flow.steps["model"].shadow(Doubled(2), keep=0) as shadow:
                await call(flow, [1, 2])
                await eventually(lambda: shadow.report().candidate.tasks + shadow.report().skipped == 2)
                await eventually(lambda: blocks(flow) == 0)
    assert MAX_BYTES == 64 << 20


async def test_tasks_that_are_changed_in_place_are_not_copied() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow, flow.steps["model"].shadow(Doubled(2)) as shadow:
            task = job(1)
            task.share_value("payload")
            await flow.process(task)
            assert (shadow.report().skipped_writable, shadow.report().candidate.tasks) == (1, 0)
            del task


@pytest.mark.parametrize(
    ("present", "tried", "expected", "options"),
    [
        (Numbers(1), Numbers(2), (6, 12), {}),
        (Side(1), Side(2), (7, 14), {}),
        (InRounds(1), InRounds(2), (7, 14), {"continuous": True, "batch_size": 4}),
    ],
)
async def test_a_shadow_of_calls_side_by_side(present: Any, tried: Any, expected: Any, options: Any) -> None:
    flow = make_flow(present, **options)
    with inline(flow):
        async with flow, flow.steps["model"].shadow(tried) as shadow:
            if isinstance(present, Numbers):
                assert [item async for item in flow.stream(job(7))] == [0, 1, 2, 3]
            else:
                await flow.process(job(7))
            (pair,) = await read(shadow, 1)
            assert (pair.baseline.result, pair.candidate.result) == expected


@pytest.mark.parametrize("keep", [-1, 1.5, True, None])
def test_how_many_pairs_are_kept_is_a_number(keep: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs keep >= 0"):
        make_flow().steps["model"].shadow(Doubled(2), keep=keep)
