"""Steps whose number of workers follows their work, down to none."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_aqueduct import (
    Aqueduct,
    Autoscale,
    ConfigurationError,
    DeadlineUnreachable,
    FairShare,
    Flow,
    FlowStep,
    NotRunningError,
    StartError,
    flow_endpoint,
    in_worker,
)
from fastapi_aqueduct.metrics.families import families
from fastapi_aqueduct.testing import client, inline
from fastapi_aqueduct.testing.inline import InlineEngine
from fastapi_aqueduct.testing.threads import ThreadStarter

from ..handlers import Each, Gate, Job, StartingOnce, Yielding, add_one, enter_gate_if_any, fail_to_load, tell_pid
from ..support import DEADLINE, blocks, engine_of, eventually, outcome, pids, running, wait_until
from .scaled import LARGE, Loading, make_large, stay_a_moment, wait_at_gate, wants_second

LOAD = 0.3
"""Seconds that `Loading` takes to start with its flow."""


@contextlib.contextmanager
def held(hold: Path) -> Iterator[None]:
    """Let `Loading` load for as long as the context lasts."""
    hold.touch()
    try:
        yield
    finally:
        hold.unlink()


def elastic(handler: Any, minimum: int = 0, maximum: int = 2, idle_after: float = 0.2, **options: Any) -> FlowStep:
    scale = Autoscale(minimum, maximum, idle_after=idle_after, up_wait=0.05)
    return FlowStep(handler, nprocs=scale, name="model", **options)


def make_flow(*steps: FlowStep, **options: Any) -> Flow:
    return Flow(*steps, name="elastic", mp_start_method="forkserver", **options)


def is_asleep(flow: Flow, step: int = 0) -> bool:
    """Tell whether a step sleeps and its workers are gone."""
    statistics = flow.statistics().steps[step]
    return statistics.is_asleep and not statistics.workers


@contextlib.asynccontextmanager
async def running_in_threads(flow: Flow) -> AsyncIterator[Flow]:
    """Run a flow whose workers are threads, as many as it wants: where the processes are not the point."""
    with flow._lifecycle.built_by(lambda options: InlineEngine.build(options, ThreadStarter(options))):
        async with running(flow):
            yield flow


def ready_time(flow: Flow, step: int = 0) -> float:
    """Return for how long workers of a step were ready: it has grown also if they are gone again."""
    load = flow.statistics().steps[step].load
    assert load is not None
    return load.ready_time


def touched(flow: Flow) -> int:
    return flow.statistics().arena.touched


async def test_a_burst_wakes_a_step_has_workers_added_and_is_followed_by_sleep(tmp_path: Path) -> None:
    """No task fails, no answer is wrong, and processes and memory are back."""
    flow = make_flow(elastic(Each(enter_gate_if_any, stay_a_moment, tell_pid), maximum=3))
    async with running(flow):
        first = (await flow.process(Job(payload=b""), DEADLINE)).pid
        await eventually(lambda: is_asleep(flow))
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        statistics = flow.statistics().steps[0]
        assert (statistics.nprocs, statistics.is_waking, statistics.is_broken) == (0, False, False)
        assert statistics.expected_wait > 0
        values = {metric.name: metric.samples[0].value for metric in families({"elastic": flow.statistics()})}
        names = ("aqueduct_workers_wanted", "aqueduct_step_asleep", "aqueduct_expected_wait_seconds")
        assert [values[name] for name in names] == [0, 1, 0]
        for number in range(2):
            gate = Gate(tmp_path, str(number))
            calls = [flow.process(Job(payload=b"\7" * 50_000, gate=gate), DEADLINE) for _ in range(9)]
            jobs = [asyncio.ensure_future(call) for call in calls]
            await eventually(lambda: len(pids(flow)) == 3)
            gate.open()
            assert {(await job).total for job in jobs} == {350_000}
            del calls, jobs
            await eventually(lambda: is_asleep(flow))
        statistics = flow.statistics().steps[0]
        assert (statistics.restarts, statistics.failed_launches) == (0, 0)
        assert engine_of(flow).supervisor.lacking() == 0
        assert blocks(flow) == 0
        assert flow.statistics().failed == flow.statistics().timed_out == 0


async def test_the_shared_memory_of_workers_that_have_left_is_returned() -> None:
    """Also that of a block which was in use when its worker left."""
    flow = make_flow(elastic(Each(make_large), minimum=0, idle_after=0.3))
    async with running(flow):
        done = await flow.process(Job(), DEADLINE)
        await eventually(lambda: is_asleep(flow))
        await eventually(lambda: touched(flow) <= LARGE + 100_000)
        assert bytes(done.large[-4:]) == b"\x05" * 4
        del done
        assert blocks(flow) == 0
        engine_of(flow).dispatcher._reclaimer.reclaim()  # as when a caller waits for memory, or the flow is idle
        assert touched(flow) < 100_000


async def test_a_task_wakes_a_later_step_when_it_arrives_at_the_flow(tmp_path: Path) -> None:
    flow = make_flow(FlowStep(Each(enter_gate_if_any)), elastic(Each(add_one)))
    gate = Gate(tmp_path)
    async with running_in_threads(flow):
        await eventually(lambda: is_asleep(flow, 1))
        before = ready_time(flow, 1)
        call = asyncio.create_task(flow.process(Job(gate=gate, number=1), DEADLINE))
        await eventually(lambda: ready_time(flow, 1) > before)
        assert not call.done()
        await eventually(lambda: is_asleep(flow, 1))  # the task needs long in the first step
        gate.open()
        assert (await call).number == 2


async def test_only_a_task_that_will_visit_a_step_wakes_it() -> None:
    """A condition that is met later only, as an earlier step sets the field, counts when the task gets there."""
    flow = make_flow(FlowStep(Each(add_one)), elastic(Each(add_one), handle_condition=wants_second, idle_after=0.1))
    async with running_in_threads(flow):
        await eventually(lambda: is_asleep(flow, 1))
        assert (await flow.process(Job(number=5), DEADLINE)).number == 6
        flow.check_entry()
        assert is_asleep(flow, 1)
        assert (await flow.process(Job(number=1), DEADLINE)).number == 3


async def test_a_task_without_the_time_for_a_start_is_refused_and_wakes_the_step_all_the_same(tmp_path: Path) -> None:
    """Over HTTP the answer is 503 with the time in Retry-After; meanwhile the application is ready and live."""
    hold = tmp_path / "hold"
    flow = make_flow(elastic(Loading(hold, LOAD)))
    aqueduct = Aqueduct(flow)
    app = FastAPI(lifespan=aqueduct.lifespan)
    aqueduct.install(app)

    @app.post("/work")
    @flow_endpoint(flow, timeout_sec=LOAD / 2)
    async def work(task: Job) -> dict[str, int]:
        return {"pid": task.pid}

    async def health() -> set[tuple[int, str, bool]]:
        answers = [await http.get(path) for path in ("/ready", "/live")]
        return {(one.status_code, one.json()["status"], one.json()["steps"][0].get("asleep", False)) for one in answers}

    async with client(app) as http:
        await eventually(lambda: is_asleep(flow))
        assert await health() == {(200, "ready", True)}
        wait, before = flow.statistics().steps[0].expected_wait, ready_time(flow)
        with held(hold):
            refused = await http.post("/work")
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) in (math.ceil(wait), math.floor(wait))
            statistics = flow.statistics().steps[0]
            assert (statistics.is_asleep, statistics.is_waking, statistics.nprocs) == (False, True, 1)
            assert await health() == {(200, "ready", False)}
            with pytest.raises(DeadlineUnreachable, match="model of flow elastic was asleep and starts in") as caught:
                await flow.process(Job(), 0.01)
            assert caught.value.retry_after > 0.01
        await eventually(lambda: ready_time(flow) > before)
        assert flow.statistics().refusals["deadline_unreachable"] == 2


async def test_a_worker_that_dies_while_it_wakes_or_leaves_costs_no_task(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    async with running(make_flow(elastic(Loading(hold)))) as flow:
        await eventually(lambda: is_asleep(flow))
        with held(hold):
            call = asyncio.create_task(flow.process(Job(), DEADLINE))
            await eventually(lambda: [worker.pid for worker in flow.statistics().steps[0].workers if worker.pid])
            (starting,) = flow.statistics().steps[0].workers
            assert starting.pid
            os.kill(starting.pid, signal.SIGKILL)
            await eventually(lambda: flow.statistics().steps[0].restarts == 1)
        assert (await call).pid != starting.pid
        await eventually(lambda: is_asleep(flow))


async def test_a_stop_during_a_wake_ends_the_task_and_the_worker(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    flow = make_flow(elastic(Loading(hold)), stop_timeout=0.1)
    async with running(flow):
        await eventually(lambda: is_asleep(flow))
        with held(hold):
            call = asyncio.create_task(flow.process(Job(), DEADLINE))
            await eventually(lambda: flow.statistics().steps[0].workers)
            await flow.stop()
            assert isinstance(await outcome(call), NotRunningError)


async def test_a_step_that_cannot_wake_says_why_it_is_unavailable(tmp_path: Path) -> None:
    """It was asleep for good reason until then; now its workers fail."""
    broken = tmp_path / "broken"
    async with running_in_threads(make_flow(elastic(StartingOnce(fail_to_load, broken)))) as flow:
        await eventually(lambda: is_asleep(flow))
        broken.touch()
        call = asyncio.create_task(flow.process(Job(), DEADLINE))
        await eventually(lambda: flow.statistics().steps[0].restarts)
        statistics = flow.statistics().steps[0]
        assert (statistics.is_waking, statistics.is_asleep, statistics.ready_workers) == (False, False, 0)
        broken.unlink()
        assert (await call).pid


async def test_a_broken_model_shows_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(StartError):
        await make_flow(elastic(StartingOnce(fail_to_load, tmp_path / "broken"))).start_async()


async def test_a_worker_with_an_open_stream_leaves_when_that_has_ended(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running_in_threads(make_flow(elastic(Yielding(wait_at_gate), idle_after=0.1))) as flow:
        step = flow.steps["model"]
        await step.scale(2)
        stream = flow.stream(Job(gate=gate, count=0), timeout_sec=DEADLINE, item_timeout=DEADLINE)
        assert await anext(stream) == 1
        await eventually(lambda: len(pids(flow)) == 1)  # the other one had nothing to do
        change = asyncio.create_task(step.scale(0))
        await eventually(lambda: not pids(flow))
        await eventually(lambda: [worker.state for worker in step.statistics().workers] == ["retiring"])
        assert not change.done()
        other = flow.stream(Job(gate=gate, count=0), timeout_sec=DEADLINE, item_timeout=DEADLINE)
        assert await anext(other) == 1  # a task wakes the step all the same
        gate.open()
        assert [item async for item in stream] == [item async for item in other] == [2]
        await change
        await eventually(lambda: is_asleep(flow))


async def test_a_step_is_scaled_by_hand_within_its_declaration() -> None:
    flow = make_flow(elastic(Each(add_one), idle_after=60.0), FlowStep(Each(add_one), name="plain"))
    async with running_in_threads(flow):
        model, plain = flow.steps["model"], flow.steps["plain"]
        await model.scale(2)
        assert (len(pids(flow)), model.statistics().nprocs, model.nprocs) == (2, 2, 1)
        with pytest.raises(ConfigurationError, match=r"nprocs=Autoscale\(minimum=0, maximum=2, .* not allow 3"):
            await model.scale(3)
        with pytest.raises(ConfigurationError, match=r"got 1000: .*nprocs=Autoscale\(\.\.\., 1000\)"):
            await plain.scale(1000)
        with pytest.raises(ConfigurationError, match="got 0"):
            await plain.scale(0)
        await model.scale(0)
        assert is_asleep(flow)
        assert (await flow.process(Job(number=1), DEADLINE)).number == 3


async def test_scaling_waits_while_a_handler_is_replaced() -> None:
    async with running_in_threads(make_flow(elastic(Each(add_one), idle_after=0.1))) as flow:
        for _ in range(3):
            await eventually(lambda: is_asleep(flow))
            done, _ = await asyncio.gather(flow.process(Job(number=1), DEADLINE), flow.steps["model"].restart())
            assert done.number == 2
        await eventually(lambda: is_asleep(flow))


async def test_workers_are_recycled_while_a_step_is_scaled() -> None:
    """Each worker is worn after two tasks; one leaves while its replacement is starting."""
    flow = make_flow(elastic(Each(stay_a_moment), idle_after=0.1, max_tasks=2))
    async with running(flow):
        while not flow.statistics().steps[0].recycled:
            jobs = [asyncio.create_task(flow.process(Job(payload=b"\1\2"), DEADLINE)) for _ in range(10)]
            assert {(await job).total for job in jobs} == {3}
        await eventually(lambda: is_asleep(flow))
        assert engine_of(flow).supervisor.lacking() == 0


def test_a_step_sleeps_and_wakes_in_whichever_event_loop_drives_the_flow() -> None:
    flow = make_flow(elastic(Each(add_one)))
    flow.start()
    try:
        for _ in range(2):
            assert flow.process_blocking(Job(number=1), DEADLINE).number == 2  # a loop of the flow's own
            assert wait_until(lambda: is_asleep(flow), DEADLINE)
        assert asyncio.run(flow.process(Job(number=1), DEADLINE)).number == 2

        async def wake_from_elsewhere() -> None:
            flow.adopt()
            await eventually(lambda: is_asleep(flow))
            before = ready_time(flow)
            await asyncio.to_thread(asyncio.run, check_entry())
            await eventually(lambda: ready_time(flow) > before)

        async def check_entry() -> None:
            flow.check_entry(timeout_sec=DEADLINE)

        asyncio.run(wake_from_elsewhere())
        assert flow.process_blocking(Job(number=1), DEADLINE).number == 2
    finally:
        asyncio.run(flow.stop())


async def test_a_step_that_wakes_holds_up_only_tenants_that_wait_for_it(tmp_path: Path) -> None:
    """It has no worker yet, and two tasks that wait for it are as many as the gate lets on."""
    hold = tmp_path / "hold"
    flow = make_flow(
        FlowStep(Each()), elastic(Loading(hold), 0, 1, handle_condition=wants_second), fair=FairShare("tenant")
    )
    async with running(flow):
        await eventually(lambda: is_asleep(flow, 1))
        with held(hold):
            jobs = [
                asyncio.create_task(flow.process(Job(tenant="a", number=2), DEADLINE)) for _ in range(9)
            ]
            await eventually(lambda: flow.statistics().steps[1].queued >= 2)
            for _ in range(5):
                await flow.process(Job(tenant="b", number=1), DEADLINE)
            assert flow.statistics().steps[1].is_waking
        assert all(job.pid for job in await asyncio.gather(*jobs))


async def test_functions_in_workers_are_elastic_and_tests_without_processes_have_one_worker() -> None:
    scale = Autoscale(0, 2, idle_after=0.1)
    function = in_worker(nprocs=scale, timeout_sec=DEADLINE, mp_start_method="forkserver")(double_number)
    async with function.flow:
        assert await function(2) == 4
        await eventually(lambda: is_asleep(function.flow))
        assert await function(3) == 6
    async with inline(in_worker(nprocs=scale)(double_number)) as flow:
        statistics = flow.statistics().steps[0]
        assert (statistics.nprocs, statistics.ready_workers) == (1, 1)


def double_number(number: int) -> int:
    return 2 * number
