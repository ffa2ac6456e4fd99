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
from .branched import NAMES, Act, Plan, branched, step

PLACES = ("left", "up", "last")
"""A step that is a branch, one in a group in a branch, and one behind a group."""

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def in_threads(flow: Flow) -> AsyncIterator[Flow]:
    """Run a flow whose workers are threads, as many as it wants."""
    with flow._lifecycle.built_by(lambda options: InlineEngine.build(options, ThreadStarter(options))):
        async with running(flow):
            yield flow


@contextlib.asynccontextmanager
async def traffic(flow: Flow, path: Path, name: str) -> AsyncIterator[list[int]]:
    """Call a flow all the time; give the versions of a step that have worked on the tasks."""
    versions: list[int] = []
    is_over = False

    async def call(sizes: itertools.cycle[int]) -> None:
        while not is_over:
            task: Any = await flow.process(Plan(next(sizes), {}, (), path), DEADLINE)
            assert {one for one in NAMES if hasattr(task, f"by_{one}")} == set(NAMES)
            versions.append(getattr(task, f"version_of_{name}"))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(call(itertools.cycle((10, 40_000))))
        yield versions
        is_over = True


@pytest.mark.parametrize("name", PLACES)
async def test_a_step_is_changed_and_tried_out_while_tasks_are_in_it(name: str, tmp_path: Path) -> None:
    """No task fails or is lost, and each that is sent later has the later handler."""
    async with in_threads(branched()) as flow:
        one = flow.steps[name]
        async with traffic(flow, tmp_path, name) as versions:
            await eventually(lambda: len(versions) > 8)
            await one.replace(Act(name, 2))
            await one.scale(2)
            versions.clear()
            await eventually(lambda: len(versions) > 8)
            assert versions[-1] == 2 and len(one.statistics().workers) == 2
            async with one.canary(Act(name, 3), share=0.5) as canary:
                await eventually(lambda: {2, 3} <= set(versions))
                assert min(canary.report().baseline.tasks, canary.report().candidate.tasks) > 0
                await canary.promote()
            await one.restart()
            await one.scale(1)
            versions.clear()
            await eventually(lambda: len(versions) > 8)
            assert versions[-1] == 3
            async with one.shadow(Act(name, 4)) as shadow:
                for _ in range(4):
                    pair: Any = await asyncio.wait_for(anext(shadow), DEADLINE)
                    found = [getattr(side, f"version_of_{name}") for side in (pair.baseline, pair.candidate)]
                    assert found == [3, 4]
                    # Both are the task as the step leaves it: with what the steps before it have set, and no other.
                    seen = [set(getattr(side, f"seen_by_{name}")) | {name} for side in (pair.baseline, pair.candidate)]
                    assert seen[0] == seen[1] == {one for one in NAMES if hasattr(pair.candidate, f"by_{one}")}
                    del pair
        assert set(versions) == {3}
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
        step(name, **({"nprocs": scale} if name in PLACES else {})) for name in NAMES
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
