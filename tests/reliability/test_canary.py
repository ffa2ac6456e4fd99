"""A handler that gets a share of the tasks of a step while the flow serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import (
    Autoscale,
    BaseTaskHandler,
    ConfigurationError,
    Flow,
    FlowStep,
    NotRunningError,
    StartError,
    StepChanging,
    TaskTimeout,
    UsageError,
    in_worker,
)
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.testing import inline

from ..handlers import Job
from ..support import DEADLINE, blocks, eventually, outcome, pids, running
from .tried import StartsOnce, Versioned


class Tokens(BaseTaskHandler):
    """Yields a number several times."""

    def __init__(self, number: int) -> None:
        self.number = number

    def handle(self, task: Any) -> Iterator[int]:
        for _ in range(3):
            yield self.number
        task.result = self.number, 0


class Later(BaseTaskHandler):
    """Answers with its version, in a coroutine."""

    def __init__(self, version: int) -> None:
        self.version = version

    async def handle(self, *tasks: Any) -> None:
        await asyncio.sleep(0)
        for task in tasks:
            task.result = self.version, 0


class Rounds(Versioned):
    """Answers in the second round."""

    def handle(self, *tasks: Any) -> None:
        for number, live in enumerate(self.rounds(tasks)):
            for task in live if number else ():
                task.result = self.version, 0
                task.finish()


def make_flow(nprocs: int | Autoscale = 2, handler: BaseTaskHandler | None = None, **options: Any) -> Flow:
    step = FlowStep(handler or Versioned(1), nprocs=nprocs, name="model", **options)
    return Flow(step, mp_start_method="forkserver")


async def call(flow: Flow, count: int, callers: int = 8) -> Counter[Any]:
    """Call a flow; return how often each version has answered, and each error."""
    results: Counter[Any] = Counter()
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            payload = bytes([number % 256]) * 20_000  # large enough for the shared memory
            done = await outcome(flow.process(Job(payload=payload), DEADLINE))
            if isinstance(done, Exception):
                results[type(done)] += 1
            else:
                assert done.result[1] in (0, number % 256 * 20_000)
                results[done.result[0]] += 1

    await asyncio.gather(*(work() for _ in range(callers)))
    return results


@contextlib.asynccontextmanager
async def traffic(flow: Flow) -> AsyncIterator[Counter[Any]]:
    """Call a flow all the time."""
    results: Counter[Any] = Counter()
    is_over = False

    async def work() -> None:
        while not is_over:
            results.update(await call(flow, 8, callers=2))

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        yield results
        is_over = True


def states(flow: Flow) -> list[tuple[int, int, str]]:
    """List number, version and role of each worker."""
    workers = flow.statistics().steps[0].workers
    return sorted((worker.index, worker.version, str(worker.role)) for worker in workers)


SERVING = [(0, 1, "serving"), (1, 1, "serving")]


async def test_a_canary_gets_its_share_and_leaves_without_a_failed_task() -> None:
    async with running(make_flow(batch_size=4)) as flow:
        step, before = flow.steps["model"], pids(flow)
        async with step.canary(Versioned(2), share=0.2) as canary:
            statistics = step.statistics()
            assert states(flow) == sorted([*SERVING, (1, 2, "canary")])
            assert (statistics.ready_workers, statistics.nprocs, statistics.version) == (2, 2, 1)
            for change in (step.replace(Versioned(3)), step.scale(1), step.canary(Versioned(3)).__aenter__()):
                with pytest.raises(StepChanging, match="is being tried out beside another handler"):
                    await change
            results, count = await call(flow, 400), 400
            while abs(results[2] - 0.2 * count) > 6:  # what it could not get while it was busy, it gets later
                results += await call(flow, 40)
                count += 40
            assert results.total() == results[1] + results[2] == count
            report = canary.report()
            assert (report.baseline.tasks, report.candidate.tasks) == (results[1], results[2])
            assert report.share == results[2] / count
            assert report.candidate.handle_time.count <= results[2]
            assert (report.baseline.version, report.candidate.version) == (1, 2)
        assert (states(flow), pids(flow)) == (SERVING, before)
        assert (await call(flow, 20)).keys() == {1}
        assert canary.report() == report
        with pytest.raises(NotRunningError, match="the trial is over"):
            await canary.promote()
        with pytest.raises(UsageError, match="entered once"):
            await canary.__aenter__()


async def test_a_promoted_canary_becomes_the_step_under_load() -> None:
    flow = make_flow()
    async with running(flow):
        step = flow.steps["model"]
        async with traffic(flow) as results:
            async with step.canary(Versioned(2)) as canary:
                (pid,) = [worker.pid for worker in step.statistics().workers if worker.role == "canary"]
                await canary.promote()
                assert states(flow) == [(0, 2, "serving"), (1, 2, "serving")]
                assert pid in pids(flow)
                await step.scale(1)  # the step may be changed again, within the block, too
            results.clear()
            await eventually(lambda: results[2] > 10)
            results.clear()  # those of calls that had begun before the promotion
            await step.restart()
            await eventually(lambda: results[2] > 10)
        assert results.keys() == {2}
        assert states(flow) == [(0, 3, "serving")]
        assert flow.statistics().failed == flow.statistics().timed_out == 0


async def test_the_only_worker_of_a_step_gives_way_to_a_promoted_canary() -> None:
    flow = make_flow(1)
    with inline(flow):
        async with flow, traffic(flow) as results:
            async with flow.steps["model"].canary(Versioned(2)) as canary:
                await canary.promote()
                assert states(flow) == [(0, 2, "serving")]
        assert flow.statistics().failed == 0 < results.total()
        async with flow:  # started anew, with the handler that was promoted
            assert await call(flow, 5) == {2: 5}


async def test_a_promotion_that_fails_returns_to_the_workers_from_before(tmp_path: Path) -> None:
    async with running(make_flow()) as flow, traffic(flow) as results:
        async with flow.steps["model"].canary(StartsOnce(2, str(tmp_path / "started"))) as canary:
            with pytest.raises(StartError, match="once is enough"):
                await canary.promote()
        assert states(flow) == SERVING
        assert flow.statistics().failed == 0 < results.total()


async def test_exceptions_of_a_canary_are_answers_that_are_counted() -> None:
    flow = make_flow(1)
    with inline(flow):
        async with flow, flow.steps["model"].canary(Versioned(2, "call"), share=0.5) as canary:
            assert await call(flow, 40, callers=1) == {1: 20, KeyError: 20}
            candidate, baseline = canary.report().candidate, canary.report().baseline
            assert (candidate.failed, candidate.errors, candidate.deaths) == (20, {"KeyError": 20}, 0)
            assert (baseline.tasks, baseline.failed, baseline.errors) == (20, 0, {})


async def test_a_canary_that_dies_costs_no_task_and_comes_back() -> None:
    async with running(make_flow(1)) as flow:
        step = flow.steps["model"]
        async with step.canary(Versioned(2, "exit"), share=0.5) as canary:
            assert await call(flow, 30) == {1: 30}
            assert canary.report().candidate.deaths >= 1
            await eventually(lambda: (0, 2, "canary") in states(flow))
            assert (step.statistics().restarts, step.statistics().is_broken) == (0, False)
            (pid,) = [worker.pid for worker in step.statistics().workers if worker.role == "serving"]
            os.kill(pid or 0, signal.SIGKILL)
            await eventually(lambda: step.statistics().restarts == 1)
            assert (await flow.process(Job(payload=b""), DEADLINE)).result[0] == 1
            assert canary.report().baseline.deaths == 1
        assert states(flow) == [(0, 1, "serving")]
        await step.replace(Versioned(3))
        assert states(flow) == [(0, 3, "serving")]


async def test_a_canary_that_hangs_costs_no_task_if_the_step_has_a_handle_timeout() -> None:
    async with running(make_flow(1, handle_timeout=1.0)) as flow:
        step = flow.steps["model"]
        async with step.canary(Versioned(2, "hang"), share=0.5) as canary:
            assert await call(flow, 6) == {1: 6}
            assert canary.report().candidate.deaths >= 1
            assert (step.statistics().restarts, flow.statistics().failed) == (0, 0)
        assert states(flow) == [(0, 1, "serving")]


async def test_a_canary_that_hangs_leaves_when_its_callers_have_given_up() -> None:
    flow = Flow(FlowStep(Versioned(1), name="model"), mp_start_method="forkserver", timing=Timing(stop_time=0.1))
    async with running(flow):
        step = flow.steps["model"]
        async with step.canary(Versioned(2, "hang"), share=0.5) as canary:
            done = [await outcome(flow.process(Job(payload=b""), 1.5)) for _ in range(2)]
            assert [type(one) for one in done].count(TaskTimeout) == 1
        assert (states(flow), canary.report().candidate.tasks) == ([(0, 1, "serving")], 0)
        await step.restart()


def test_a_canary_goes_on_in_another_event_loop() -> None:
    """It is opened, promoted and closed in loops that end at once; it dies while none drives the flow."""
    flow = make_flow(1)
    flow.start()
    try:
        canary = flow.steps["model"].canary(Versioned(2), share=0.25)
        asyncio.run(canary.__aenter__())
        assert asyncio.run(call(flow, 20, callers=1)) == {1: 15, 2: 5}
        (pid,) = [worker.pid for worker in flow.statistics().steps[0].workers if worker.role == "canary"]
        os.kill(pid or 0, signal.SIGKILL)
        assert asyncio.run(call(flow, 20, callers=1)).total() == 20
        assert canary.report().candidate.deaths == 1

        async def return_of_the_canary() -> None:
            flow.adopt()
            await eventually(lambda: [w.state for w in flow.statistics().steps[0].workers] == ["ready", "ready"])

        asyncio.run(return_of_the_canary())
        assert asyncio.run(call(flow, 20, callers=1))[2] == 5
        assert flow.process_blocking(Job(payload=b""), DEADLINE).result  # a loop of the flow's own
        asyncio.run(canary.promote())
        asyncio.run(canary.__aexit__(None, None, None))
        assert asyncio.run(call(flow, 5)) == {2: 5}
        assert (states(flow), flow.statistics().failed) == ([(0, 2, "serving")], 0)
    finally:
        asyncio.run(flow.stop())


async def test_a_canary_that_cannot_start_changes_nothing() -> None:
    flow = make_flow(1)
    with inline(flow):
        async with flow:
            with pytest.raises(StartError, match="no such model"):
                await flow.steps["model"].canary(Versioned(2, "start")).__aenter__()
            assert states(flow) == [(0, 1, "serving")]
            await flow.steps["model"].restart()


async def test_a_stop_and_a_cancellation_end_a_canary() -> None:
    flow = make_flow(1)
    async with running(flow):
        opening = asyncio.create_task(flow.steps["model"].canary(Versioned(2)).__aenter__())
        await eventually(lambda: len(states(flow)) == 2)
        opening.cancel()
        await asyncio.wait([opening])
        await eventually(lambda: states(flow) == [(0, 1, "serving")])
        async with flow.steps["model"].canary(Versioned(2), share=0.5) as canary:
            assert (await call(flow, 20)).total() == 20
            await flow.stop()
        with pytest.raises(NotRunningError):
            await canary.promote()


async def test_a_step_with_a_canary_falls_asleep_and_is_woken() -> None:
    flow = make_flow(Autoscale(0, 1, idle_after=0.2))
    async with running(flow):
        step = flow.steps["model"]
        async with step.canary(Versioned(2), share=0.5) as canary:
            await eventually(lambda: states(flow) == [(0, 2, "canary")])
            assert await call(flow, 20, callers=1) == {1: 10, 2: 10}
            await canary.promote()
        assert {version for _, version, _ in states(flow)} <= {2}
        assert await call(flow, 2) == {2: 2}


@pytest.mark.parametrize(
    ("present", "tried", "options"),
    [
        (Tokens(1), Tokens(2), {}),
        (Later(1), Later(2), {"concurrency": 4}),
        (Rounds(1), Rounds(2), {"continuous": True, "batch_size": 4}),
    ],
)
async def test_a_canary_of_calls_side_by_side(present: Any, tried: Any, options: Any) -> None:
    flow = make_flow(1, present, **options)
    with inline(flow):
        async with flow, flow.steps["model"].canary(tried, share=0.25):
            assert await call(flow, 80, callers=1) == {1: 60, 2: 20}
            if isinstance(present, Tokens):
                streams = [[item async for item in flow.stream(Job(payload=b""))] for _ in range(4)]
                assert sorted(streams) == [[1, 1, 1]] * 3 + [[2, 2, 2]]
            await eventually(lambda: blocks(flow) == 0)


@in_worker
def older(text: str) -> str:
    return f"1: {text}"


@in_worker
def newer(text: str) -> str:
    return f"2: {text}"


@in_worker
async def other(text: str) -> str:
    return text


async def test_a_function_in_workers_is_tried_out_by_another_one() -> None:
    step = older.flow.steps["older"]
    with inline(older.flow):
        async with older.flow:
            async with step.canary(newer, share=0.5) as canary:
                assert [await older("a"), await older("b")] == ["2: a", "1: b"]
                await canary.promote()
            assert await older("c") == "2: c"
            await step.replace(older)
            assert await older("d") == "1: d"


@pytest.mark.parametrize(
    ("step", "tried", "message"),
    [
        (older.flow.steps["older"], other, "another function of its form"),
        (older.flow.steps["older"], Versioned(2), "another function of its form"),
        (older.flow.steps["older"], newer.local, "decorate it with in_worker"),
        (make_flow().steps["model"], newer, "needs a handler of its tasks"),
        (make_flow().steps["model"], Tokens(1), "must be a plain method"),
        (make_flow().steps["model"], Versioned, "forget the parentheses"),
    ],
)
def test_a_handler_that_cannot_take_the_place_is_refused_at_the_call(step: Any, tried: Any, message: str) -> None:
    for try_out in (step.canary, step.shadow):
        with pytest.raises(ConfigurationError, match=message):
            try_out(tried)


@pytest.mark.parametrize("share", [0, 1, -0.1, True, "0.1", float("nan")])
def test_a_share_is_between_0_and_1(share: Any) -> None:
    with pytest.raises(ConfigurationError, match="a share between 0 and 1"):
        make_flow().steps["model"].canary(Versioned(2), share=share)


def test_a_canary_is_of_use_when_it_has_begun() -> None:
    with pytest.raises(UsageError, match="has not begun"):
        make_flow().steps["model"].canary(Versioned(2)).report()
