"""Batches by key and by cost, in a flow that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import ConfigurationError, Cost, Flow, FlowStep, WorkerDied

from .. import handlers
from ..handlers import Each, Gate, Job, Rounds, Whole
from ..support import eventually, forked, outcome, running
from .batched import LENGTH, Dying, bucket_of, halve, key_of_zero, length_of, tell_batch_at_gate


def gated(**options: Any) -> FlowStep:
    return FlowStep(Whole(tell_batch_at_gate), **options)


async def batches(flow: Flow, gate: Gate, jobs: list[Job]) -> list[list[int]]:
    """Have tasks come while the only worker is held, and return their batches in the order of the first task."""
    held = asyncio.create_task(flow.process(Job(gate=gate, number=0, cost=0, kind="held"), 60))
    await eventually(gate.is_entered)
    calls = [asyncio.create_task(flow.process(job, 60)) for job in jobs]
    await eventually(lambda: flow.statistics().steps[-1].queued == len(jobs))
    gate.open()
    await asyncio.gather(held, *calls)
    found: dict[int, list[int]] = {}
    for job in jobs:
        found.setdefault(min(job.batch), job.batch)
    return list(found.values())


@pytest.mark.parametrize("key", ["kind", bucket_of])
async def test_only_tasks_of_one_key_share_a_batch(tmp_path: Path, key: str | Callable[[Any], Any]) -> None:
    numbers = [1, 11, 2, 12, 3, 13, 4]
    async with running(forked(gated(batch_size=3, batch_key=key))) as flow:
        jobs = [Job(number=number, kind=("few", number // 10)) for number in numbers]
        assert await batches(flow, Gate(tmp_path), jobs) == [[1, 2, 3], [11, 12, 13], [4]]


async def test_a_step_behind_another_one_has_keys_and_costs_of_what_that_has_set(tmp_path: Path) -> None:
    step = gated(batch_size=9, batch_key="half", batch_cost=Cost("number", limit=13))
    async with running(forked(FlowStep(Each(halve)), step, context=[LENGTH])) as flow:
        jobs = [Job(number=number) for number in (4, 5, 4, 6, 14, 15)]
        assert await batches(flow, Gate(tmp_path), jobs) == [[4, 5, 4], [6], [14], [15]]


async def test_a_batch_closes_at_the_limit_and_a_task_above_it_runs_alone(tmp_path: Path) -> None:
    async with running(forked(gated(batch_size=9, batch_cost=Cost("cost", limit=10)))) as flow:
        jobs = [Job(number=number, cost=cost) for number, cost in enumerate((4, 6, 1, 11, 2, 8, 0))]
        assert await batches(flow, Gate(tmp_path), jobs) == [[0, 1], [2], [3], [4, 5, 6]]


async def test_the_tasks_in_a_continuous_call_cost_no_more_than_the_limit() -> None:
    step = FlowStep(Rounds(), batch_size=8, continuous=True, batch_cost=Cost("cost", limit=10))
    async with running(forked(step)) as flow:
        jobs = [Job(count=5, cost=cost) for cost in (5, 5, 5, 5, 12, 3, 3, 3, 3)]
        await asyncio.gather(*(flow.process(job, 60) for job in jobs))
        assert max(job.widest for job in jobs) == 3


async def test_a_cost_may_depend_on_a_context_variable(tmp_path: Path) -> None:
    async with running(forked(gated(batch_size=9, batch_cost=Cost(length_of, limit=4)), context=[LENGTH])) as flow:
        LENGTH.set(2)
        jobs = [Job(number=number) for number in range(4)]
        assert await batches(flow, Gate(tmp_path), jobs) == [[0, 1], [2, 3]]


async def test_an_exception_of_a_key_fails_its_task_and_no_other() -> None:
    first = FlowStep(Whole(handlers.tell_batch), batch_size=4, batch_key=key_of_zero)
    behind = FlowStep(Each(halve)), FlowStep(Whole(handlers.tell_batch), batch_size=4, batch_key=key_of_zero)
    for steps in ((first,), behind):
        async with running(forked(*steps)) as flow:
            good, bad = Job(number=1), Job(number=0)
            found = await asyncio.gather(*(outcome(flow.process(job, 60)) for job in (good, bad)))
            assert isinstance(found[1], ZeroDivisionError) and good.batch == [1]


async def test_a_task_without_the_field_of_a_key_fails_and_the_error_names_the_step() -> None:
    steps = FlowStep(Each(halve)), FlowStep(Whole(handlers.tell_batch), batch_key="third", name="embed")
    async with running(forked(*steps)) as flow:
        with pytest.raises(ConfigurationError, match="batch_key of step embed is the field 'third'"):
            await flow.process(Job(number=1), 60)


async def test_tasks_whose_callers_leave_are_passed_over(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(forked(gated(batch_size=4, batch_key="kind"))) as flow:
        held = asyncio.create_task(flow.process(Job(gate=gate, number=-1, kind=""), 60))
        await eventually(gate.is_entered)
        jobs = [Job(number=number, kind="ab"[number % 2]) for number in range(6)]
        calls = [asyncio.create_task(flow.process(job, 60)) for job in jobs]
        await eventually(lambda: flow.statistics().steps[0].queued == 6)
        for number in (0, 1, 3, 5):
            calls[number].cancel()
        await asyncio.wait(calls[1::2])
        await eventually(lambda: flow.statistics().steps[0].queued == 2)
        gate.open()
        await asyncio.gather(held, calls[2], calls[4])
        assert jobs[2].batch == jobs[4].batch == [2, 4]


@pytest.mark.processes
async def test_a_death_has_each_task_of_its_batch_tried_again_alone() -> None:
    async with running(forked(FlowStep(Dying(), batch_size=4, batch_key="kind"))) as flow:
        jobs = [Job(number=number, kind="k") for number in range(3)]
        jobs.append(Job(number=9, kind="other"))
        found = await asyncio.gather(*(outcome(flow.process(job, 60)) for job in jobs))
        assert isinstance(found[1], WorkerDied)
        assert [job.batch for job in jobs if job.number != 1] == [[0], [2], [9]]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda: FlowStep(Rounds(), batch_size=2, continuous=True, batch_key="kind"), "leave out batch_key"),
        (lambda: FlowStep(handlers.Yielding(print), batch_key="kind"), "has a `yield`.*leave out batch_key"),
        (lambda: FlowStep(handlers.Yielding(print), batch_cost=Cost("n", limit=2)), "leave out batch_cost"),
    ],
)
def test_steps_without_batches_of_their_own_have_no_keys(step: Callable[[], FlowStep], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        step()


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow(FlowStep(Each(halve), batch_cost=Cost("number", limit=10), name="embed"), name="texts")
    monkeypatch.setenv("AQUEDUCT_TEXTS__EMBED__BATCH_COST__LIMIT", "16Ki")
    assert {(one.option, one.value) for one in flow._configuration.preview()} >= {("batch_cost.limit", 16384)}
    assert flow._configuration.read().steps[0][1].batch_cost == Cost("number", limit=16384)
    plain = Flow(FlowStep(Each(halve), name="embed"), name="texts")
    with pytest.raises(ConfigurationError, match="BATCH_COST__LIMIT sets nothing of step embed"):
        plain._configuration.preview()
