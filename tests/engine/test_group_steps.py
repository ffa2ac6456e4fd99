"""Steps in a group, and the step directly behind one, are as all others: they can be changed, tried out, and sleep."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import Autoscale, Flow
from fastapi_aqueduct.testing.inline import InlineEngine
from fastapi_aqueduct.testing.threads import ThreadStarter

from ..handlers import Gate, notes
from ..support import DEADLINE, blocks, eventually, running
from .branched import NAMES, Act, Awaits, InRounds, Plan, Yields, YieldsAsync, branched, step

PLACES = ("left", "up", "last")
"""A step that is a branch, one in a group in a branch, and one behind a group."""

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def in_threads(flow: Flow) -> AsyncIterator[Flow]:
    """Run a flow whose workers are threads, as many as it wants."""
    with flow._lifecycle.built_by(lambda options: InlineEngine.build(options, ThreadStarter(options))):
        async with running(flow):
            yield flow


async def version(flow: Flow, path: Path, name: str, size: int = 10) -> int:
    """Process a task, check it, and return the version of a step that has worked on it."""
    task: Any = await flow.process(Plan(size, {}, (), path), DEADLINE)
    assert {one for one in NAMES if hasattr(task, f"by_{one}")} == set(NAMES)
    return int(getattr(task, f"version_of_{name}"))


@contextlib.asynccontextmanager
async def traffic(flow: Flow, path: Path, name: str) -> AsyncIterator[None]:
    """Call a flow all the time."""
    is_over = False

    async def call() -> None:
        sizes = itertools.cycle((10, 40_000))
        while not is_over:
            await version(flow, path, name, next(sizes))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(call())
        yield
        is_over = True


FORMS: tuple[tuple[type[Act], dict[str, Any]], ...] = (
    *((Yields, {}), (Awaits, {"batch_size": 2}), (YieldsAsync, {}), (InRounds, {"batch_size": 4})),
    (InRounds, {"batch_size": 4, "continuous": True}),
)


@pytest.mark.parametrize("turn", range(len(FORMS)))
async def test_handlers_of_every_form_work_in_and_behind_a_group(turn: int, tmp_path: Path) -> None:
    """Each test has another form at each place; a step whose condition is not met is passed by each form."""
    kinds = [FORMS[(turn + place) % len(FORMS)] for place in range(len(NAMES))]
    first, left, right, up, down, far, last = (
        step(name, kind, **options) for name, (kind, options) in zip(NAMES, kinds, strict=True)
    )
    async with in_threads(Flow(first, [left, (right, [up, down], far)], last)) as flow:
        for size, skipped in itertools.product((10, 40_000), ((), ("left", "up"), ("right", "down", "last"))):
            plans: list[Any] = [Plan(size, {}, skipped, tmp_path) for _ in range(5)]
            await asyncio.gather(*[flow.process(plan, DEADLINE) for plan in plans])
            plans.append(Plan(size, {}, skipped, tmp_path))
            items = [item async for item in flow.stream(plans[-1], DEADLINE)]
            visited = [name for name in NAMES if name not in skipped]
            assert sorted(items) == sorted(itertools.product(visited, range(3)))
            for plan in plans:
                assert {name: getattr(plan, f"by_{name}", None) for name in NAMES} == {
                    name: None if name in skipped else name.encode() * size for name in NAMES
                }
            del plans, plan


@pytest.mark.parametrize("name", PLACES)
async def test_a_step_is_changed_and_tried_out_while_tasks_are_in_it(name: str, tmp_path: Path) -> None:
    """No task fails or is lost, and each that is sent later has the later handler."""
    async with in_threads(branched()) as flow:
        one = flow.steps[name]
        async with traffic(flow, tmp_path, name):
            assert await version(flow, tmp_path, name) == 1
            await one.replace(Act(name, 2))
            assert await version(flow, tmp_path, name) == 2
            await one.scale(2)
            assert len(one.statistics().workers) == 2
            async with one.canary(Act(name, 3), share=0.5) as canary:
                await eventually(lambda: min(canary.report().baseline.tasks, canary.report().candidate.tasks) > 2)
                await canary.promote()
            assert await version(flow, tmp_path, name) == 3
            await one.restart()
            await one.scale(1)
            async with one.shadow(Act(name, 4)) as shadow:
                for _ in range(4):
                    pair: Any = await asyncio.wait_for(anext(shadow), DEADLINE)
                    found = [getattr(side, f"version_of_{name}") for side in (pair.baseline, pair.candidate)]
                    assert found == [3, 4]
                    # Both are the task as the step leaves it: with what the steps before it have set, and no other.
                    seen = [set(getattr(side, f"seen_by_{name}")) | {name} for side in (pair.baseline, pair.candidate)]
                    assert seen[0] == seen[1] == {one for one in NAMES if hasattr(pair.candidate, f"by_{one}")}
                    del pair
        statistics = flow.statistics()
        assert (statistics.failed, statistics.timed_out, statistics.cancelled) == (0, 0, 0)
        await eventually(lambda: blocks(flow) == 0)


@pytest.mark.parametrize("name", PLACES)
async def test_the_most_urgent_task_goes_first(name: str, tmp_path: Path) -> None:
    paths = [tmp_path / word for word in ("held", "low1", "low2", "high")]
    async with in_threads(branched(queue_priorities=10)) as flow:  # so many that no wait of the others makes up for it
        calls = []
        for number, path in enumerate(paths):
            path.mkdir()
            plan = Plan(40_000, {name: "note_order" if number else "enter_gate"}, (), path)
            plan.set_priority(9 if path.name == "high" else 0)
            calls.append(asyncio.create_task(flow.process(plan, DEADLINE)))
            if number:
                await eventually(lambda: flow.steps[name].statistics().queued == number)  # noqa: B023
            else:
                await eventually(Gate(path, name).is_entered)
        assert flow.steps[name].statistics().queued_by_priority[9] == 1
        Gate(paths[0], name).open()
        await asyncio.gather(*calls)
        assert notes(tmp_path / "order") == ["high", "low1", "low2"]
        del plan, calls


async def test_steps_that_sleep_are_woken_by_the_tasks_that_visit_them(tmp_path: Path) -> None:
    """And the one behind the group by each, to be asked for its condition."""
    scale = Autoscale(0, 1, idle_after=0.1)
    first, left, right, up, down, far, last = (
        step(name, Act, **({"nprocs": scale} if name in PLACES else {})) for name in NAMES
    )
    flow = Flow(first, [left, (right, [up, down], far)], last)

    def asleep() -> set[str]:
        found = {name: flow.steps[name].statistics() for name in PLACES}
        return {name for name, one in found.items() if one.is_asleep and not one.workers}

    def woken() -> list[float]:
        loads = [flow.steps[name].statistics().load for name in PLACES]
        return [0.0 if load is None else load.ready_time for load in loads]

    async with in_threads(flow):
        for skipped in ((), PLACES, ("up",)):
            await eventually(lambda: asleep() == set(PLACES))
            before = woken()
            task: Any = await flow.process(Plan(40_000, {}, skipped, tmp_path), DEADLINE)
            assert {name for name in NAMES if hasattr(task, f"by_{name}")} == set(NAMES) - set(skipped)
            were = {name: now > then for name, now, then in zip(PLACES, woken(), before, strict=True)}
            assert were == {name: name not in skipped or name == "last" for name in PLACES}
            del task
