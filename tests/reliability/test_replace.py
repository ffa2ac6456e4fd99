"""Replacing the handler of a step and its number of workers while the flow serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import (
    ConfigurationError,
    Flow,
    FlowStep,
    NotRunningError,
    StartError,
    StepChanging,
    TaskTimeout,
)
from fastapi_aqueduct.engine.timing import Timing

from ..handlers import Each, Gate, Job, enter_gate_if_any, tell_pid
from ..support import DEADLINE, engine_of, eventually, outcome, pids, running
from .replaced import ITEMS, Counting, Versioned


def make_flow(nprocs: int = 2, **options: object) -> Flow:
    return Flow(FlowStep(Versioned(1), nprocs=nprocs, name="model", **options), mp_start_method="forkserver")  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def load(flow: Flow, callers: int = 8) -> AsyncIterator[list[int]]:
    """Call a flow all the time; at the end no call may have failed or had a wrong answer."""
    versions: list[int] = []
    is_over = False

    async def call(number: int) -> None:
        payload = bytes([number]) * 20_000  # large enough for the shared memory
        while not is_over:
            done = await flow.process(Job(payload=payload), DEADLINE)
            version, total = done.result
            assert total == number * 20_000
            versions.append(version)

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(call(number))
        await eventually(lambda: len(versions) > 50)
        yield versions
        before = len(versions)
        await eventually(lambda: len(versions) > before + 50)
        is_over = True


def states(flow: Flow) -> list[tuple[int, int]]:
    """List the number and the version of each worker."""
    return sorted((worker.index, worker.version) for worker in flow.statistics().steps[0].workers)


def new_pids(flow: Flow) -> list[int]:
    """List the workers of the second version that are ready."""
    workers = flow.statistics().steps[0].workers
    return [worker.pid for worker in workers if worker.pid and worker.version == 2 and worker.state == "ready"]


@pytest.mark.parametrize("in_place", [False, True])
async def test_a_replacement_under_load_fails_no_task(in_place: bool) -> None:
    async with running(make_flow()) as flow:
        before = pids(flow)
        async with load(flow) as versions:
            await flow.steps["model"].replace(Versioned(2), in_place=in_place)
            assert states(flow) == [(0, 2), (1, 2)]
            assert not set(before) & set(pids(flow))
            assert flow.statistics().steps[0].version == 2
            versions.clear()
        assert set(versions) == {2}
        assert flow.statistics().failed == flow.statistics().timed_out == 0


@pytest.mark.parametrize("fault", ["raise", "exit"])
async def test_a_handler_that_cannot_start_leaves_the_old_one(fault: str) -> None:
    async with running(make_flow()) as flow:
        before = pids(flow)
        async with load(flow) as versions:
            with pytest.raises(StartError, match="no such model" if fault == "raise" else "exited with code 3"):
                await flow.steps["model"].replace(Versioned(2, fault))
            assert (states(flow), pids(flow)) == ([(0, 1), (1, 1)], before)
            with pytest.raises(StartError):
                await flow.steps["model"].replace(Versioned(2, fault), in_place=True)
            assert states(flow) == [(0, 1), (1, 1)]
            await flow.steps["model"].restart()
            assert states(flow) == [(0, 4), (1, 4)]  # two versions did not come to serve
        assert set(versions) == {1}
        assert flow.statistics().failed == flow.statistics().timed_out == 0


async def test_a_handler_whose_second_worker_cannot_start_leaves_the_old_one_in_all_workers(tmp_path: Path) -> None:
    async with running(make_flow()) as flow:
        async with load(flow) as versions:
            with pytest.raises(StartError, match="no such model"):
                await flow.steps["model"].replace(Versioned(2, "raise", tmp_path / "starts", fine=1))
            assert states(flow) == [(0, 1), (1, 1)]
            versions.clear()
        assert set(versions) == {1}
        assert flow.statistics().failed == flow.statistics().timed_out == 0


@pytest.mark.parametrize("fault", ["hang", "late"])
async def test_a_handler_that_is_not_ready_in_time_leaves_the_old_one(fault: str) -> None:
    step = FlowStep(Versioned(1), name="model")
    async with running(Flow(step, mp_start_method="forkserver", start_timeout=1.0), DEADLINE) as flow:
        before = pids(flow)
        with pytest.raises(StartError, match="it was not ready in start_timeout=1 s"):
            await flow.steps["model"].replace(Versioned(2, fault))
        assert (states(flow), pids(flow)) == ([(0, 1)], before)


async def test_workers_that_are_killed_during_a_replacement_do_not_stop_it() -> None:
    async with running(make_flow()) as flow:
        async with load(flow):
            change = asyncio.create_task(flow.steps["model"].replace(Versioned(2)))
            await eventually(lambda: len(states(flow)) == 3)
            os.kill(pids(flow)[-1], signal.SIGKILL)  # an old one, while the first new one starts
            await eventually(lambda: new_pids(flow))
            os.kill(new_pids(flow)[0], signal.SIGKILL)
            await change
            await eventually(lambda: len(pids(flow)) == 2)
            assert states(flow) == [(0, 2), (1, 2)]
        assert flow.statistics().failed == flow.statistics().timed_out == 0


async def test_worn_workers_are_recycled_after_a_replacement_and_not_during_it() -> None:
    async with running(make_flow(max_tasks=20)) as flow, load(flow):
        await eventually(lambda: flow.statistics().steps[0].recycled)
        await flow.steps["model"].replace(Versioned(2))
        assert {version for _, version in states(flow)} == {2}
        recycled = flow.statistics().steps[0].recycled
        await eventually(lambda: flow.statistics().steps[0].recycled > recycled)
        assert {version for _, version in states(flow)} == {2}


async def test_a_step_whose_workers_die_is_mended_by_another_handler(tmp_path: Path) -> None:
    broken = Versioned(1, "exit", tmp_path / "starts", fine=1)
    async with running(Flow(FlowStep(broken, name="model"), mp_start_method="forkserver")) as flow:
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: flow.statistics().steps[0].restarts > 2)
        await flow.steps["model"].replace(Versioned(2))
        assert states(flow) == [(0, 2)]
        assert (await flow.process(Job(payload=b""), DEADLINE)).result[0] == 2


async def test_a_replaced_worker_finishes_its_stream_first() -> None:
    step = FlowStep(Counting(), name="model")
    async with running(Flow(step, mp_start_method="forkserver")) as flow:
        async with flow.stream(Job(gate=None), DEADLINE) as stream:
            assert await anext(stream) == 0
            change = asyncio.create_task(flow.steps["model"].restart())
            await eventually(lambda: states(flow) == [(0, 1), (0, 2)])
            assert [item async for item in stream] == list(range(1, ITEMS))
        await change
        assert states(flow) == [(0, 2)]


def test_a_handler_of_another_form_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Counting cannot take the place of Versioned"):
        FlowStep(Versioned(1)).with_handler(Counting())


async def test_a_handler_that_cannot_be_pickled_is_refused_before_anything_happens() -> None:
    async with running(make_flow(1)) as flow:
        before = pids(flow)
        handler = Versioned(2)
        handler.model = lambda: None  # type: ignore[attr-defined]
        with pytest.raises(ConfigurationError, match="the handler of model in flow flow cannot be sent"):
            await flow.steps["model"].replace(handler)
        assert pids(flow) == before


async def test_a_number_of_workers_is_refused_for_which_there_is_no_memory() -> None:
    async with running(make_flow(1)) as flow:
        for size in (0, 1000):
            with pytest.raises(ConfigurationError, match="model can have 1 to"):
                await flow.steps["model"].scale(size)


async def test_a_step_of_a_flow_that_does_not_run_cannot_be_changed() -> None:
    with pytest.raises(NotRunningError):
        await make_flow().steps["model"].restart()


async def test_a_worker_that_dies_comes_back_as_the_version_that_counts() -> None:
    async with running(make_flow(1)) as flow:
        await flow.steps["model"].replace(Versioned(2))
        os.kill(pids(flow)[0], signal.SIGKILL)
        assert (await flow.process(Job(payload=b""), DEADLINE)).result[0] == 2
        await eventually(lambda: states(flow) == [(0, 2)])


async def test_a_restart_gives_fresh_workers_with_the_same_handler() -> None:
    async with running(make_flow(1)) as flow:
        before = pids(flow)
        await flow.steps["model"].restart()
        assert states(flow) == [(0, 2)]
        assert pids(flow) != before
        assert (await flow.process(Job(payload=b""), DEADLINE)).result[0] == 1


async def test_a_flow_that_is_started_anew_has_the_handler_of_the_last_replacement() -> None:
    flow = make_flow(1)
    async with running(flow):
        await flow.steps["model"].replace(Versioned(2))
    async with running(flow):
        assert (await flow.process(Job(payload=b""), DEADLINE)).result[0] == 2


class Renamed(Versioned):
    """Another class for the same step."""


async def test_names_stay_when_the_handler_is_of_another_class() -> None:
    flow = Flow(FlowStep(Versioned(1)), mp_start_method="forkserver")
    for _ in range(2):
        async with running(flow):
            await flow.steps["step1_Versioned"].replace(Renamed(2))
            assert list(flow.steps) == [flow.statistics().steps[0].name] == ["step1_Versioned"]
            assert flow.steps["step1_Versioned"].handler_class is Renamed


async def test_there_is_one_change_of_a_step_at_a_time() -> None:
    async with running(make_flow(1)) as flow:
        step = flow.steps["model"]
        first = asyncio.create_task(step.replace(Versioned(2)))
        await eventually(lambda: len(states(flow)) == 2)
        for change in (step.replace(Versioned(3)), step.restart(), step.scale(1)):
            with pytest.raises(StepChanging, match="model of flow flow is being replaced"):
                await change
        await first
        assert states(flow) == [(0, 2)]


async def test_a_stop_ends_a_replacement() -> None:
    flow = make_flow(1)
    async with running(flow):
        change = asyncio.create_task(flow.steps["model"].replace(Versioned(2)))
        await eventually(lambda: len(states(flow)) == 2)
        await flow.stop()
        assert isinstance(await outcome(change), NotRunningError)


async def test_a_cancellation_undoes_a_replacement() -> None:
    async with running(make_flow()) as flow:
        async with load(flow):
            change = asyncio.create_task(flow.steps["model"].replace(Versioned(2)))
            await eventually(lambda: (0, 2) in states(flow))
            change.cancel()
            await asyncio.wait([change])
            await eventually(lambda: states(flow) == [(0, 1), (1, 1)])
        await flow.steps["model"].replace(Versioned(3))


async def test_a_step_gets_more_and_fewer_workers_under_load() -> None:
    most = max(2, os.cpu_count() or 1)
    async with running(make_flow()) as flow:
        async with load(flow):
            for size in (1, most, 2):
                await flow.steps["model"].scale(size)
                assert [index for index, _ in states(flow)] == list(range(size))
                assert flow.statistics().steps[0].nprocs == size
        assert flow.statistics().failed == flow.statistics().timed_out == 0


class Hanging(Versioned):
    """Enters a call that does not return."""

    def handle(self, *tasks: Any) -> None:
        time.sleep(3600.0)


async def test_workers_that_hang_are_replaced_and_scaled_when_their_callers_have_given_up() -> None:
    """Also without a `handle_timeout`."""
    timing = Timing(stop_time=0.1)
    step = FlowStep(Hanging(1), nprocs=2, name="model")
    async with running(Flow(step, mp_start_method="forkserver", timing=timing)) as flow:
        calls = [asyncio.create_task(outcome(flow.process(Job(payload=b""), 0.5))) for _ in range(2)]
        await eventually(lambda: [worker.in_flight for worker in flow.statistics().steps[0].workers] == [1, 1])
        change = asyncio.create_task(flow.steps["model"].scale(1))  # begins before the callers give up
        assert {type(await call) for call in calls} == {TaskTimeout}
        await asyncio.wait_for(change, DEADLINE)
        await asyncio.wait_for(flow.steps["model"].replace(Versioned(2)), DEADLINE)  # and this after that
        assert states(flow) == [(0, 2)]
        assert (await flow.process(Job(payload=b""), DEADLINE)).result[0] == 2
        assert flow.statistics().steps[0].restarts == 0


@pytest.mark.parametrize("way", ["replace", "scale"])
async def test_a_worker_that_dies_while_it_leaves_costs_no_task(way: str, tmp_path: Path) -> None:
    """Its task is tried again by a worker that stays, and the change ends."""
    gate = Gate(tmp_path)
    step = FlowStep(Each(enter_gate_if_any, tell_pid), nprocs=2, name="model")
    async with running(Flow(step, mp_start_method="forkserver")) as flow:
        model = flow.steps["model"]
        calls = [asyncio.create_task(flow.process(Job(gate=gate), DEADLINE)) for _ in range(2)]
        await eventually(lambda: len(gate.entrants()) == 2)
        change = asyncio.create_task(model.scale(1) if way == "scale" else model.restart())
        await eventually(lambda: leaving(flow))
        (victim,) = leaving(flow)
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: not leaving(flow) or leaving(flow) != [victim])
        gate.open()
        assert victim not in {(await call).pid for call in calls}
        await change
        assert states(flow) == ([(0, 1)] if way == "scale" else [(0, 2), (1, 2)])
        statistics = flow.statistics()
        assert (statistics.failed, statistics.steps[0].retries, statistics.steps[0].restarts) == (0, 1, 0)
        assert engine_of(flow).supervisor.lacking() == 0


def leaving(flow: Flow) -> list[int]:
    """List the workers that get no more tasks."""
    return [worker.pid for worker in flow.statistics().steps[0].workers if worker.pid and worker.state == "retiring"]
