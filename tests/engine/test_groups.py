"""Groups: branches side by side see the task as it was before, what they change is joined, and no block is left."""

from __future__ import annotations

import asyncio
import gc
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import (
    ConfigurationError,
    Cost,
    FieldConflict,
    Flow,
    TaskNotPicklable,
    TaskTimeout,
    WorkerDied,
)
from fastapi_aqueduct.engine.timing import Timing

from ..handlers import Each, Gate, Job, enter_gate, notes, pass_on, replace_image, sum_up
from ..support import DEADLINE, blocks, eventually, forked, fresh, outcome, running
from .branched import NAMES, Plan, branched, step

SIZES = (10, 40_000)
IN_BRANCHES = ("left", "right", "up", "down", "far")
SHAPE = ("first", (("left",), ("right", (("up",), ("down",)), "far")), "last")

PROMPT = Timing(first_wait=0.01)
"""Replacements come soon; when they may is tested elsewhere."""

pytestmark = pytest.mark.anyio


class Service:
    """A flow that several tests use.

    Args:
        flow: The flow.
        path: A directory.
    """

    def __init__(self, flow: Flow, path: Path) -> None:
        self.flow = flow
        self._path = path
        self._numbers = itertools.count()

    def plan(self, size: int, skipped: tuple[str, ...] = (), /, **acts: str) -> Plan:
        path = self._path / str(next(self._numbers))
        path.mkdir()
        return Plan(size, acts, skipped, path)

    async def is_clean(self) -> None:
        """Check that nothing is left of any task, and that the flow works."""
        task = self.plan(10)
        await self.flow.process(task, DEADLINE)
        check(task)
        del task
        await eventually(lambda: not self.flow.statistics().in_flight)
        await eventually(lambda: blocks(self.flow) == 0)
        assert all(one.queued == 0 for one in self.flow.statistics().steps)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running(branched()) as flow:
        service = Service(flow, tmp_path)
        yield service
        await service.is_clean()


def visited(task: Any) -> set[str]:
    return {name for name in NAMES if hasattr(task, f"by_{name}")}


def check(task: Any) -> None:
    """Check a task that has visited all steps."""
    assert visited(task) == set(NAMES)
    assert {name: set(getattr(task, f"seen_by_{name}")) for name in NAMES} == {
        "first": set(),
        "left": {"first"},
        "right": {"first"},
        "up": {"first", "right"},
        "down": {"first", "right"},
        "far": {"first", "right", "up", "down"},
        "last": {"first", "left", "right", "up", "down", "far"},
    }
    for name in NAMES:
        assert getattr(task, f"by_{name}") == name.encode() * task.size
    steps = [step.step for step in task.metrics.steps]
    assert sorted(steps) == sorted(NAMES)
    assert steps[0] == "first" and steps[-1] == "last"


async def failing(service: Service, task: Plan, timeout: float = DEADLINE, is_stream: bool = False) -> Exception:
    async def stream() -> None:
        async for _ in service.flow.stream(task, timeout):
            pass

    error = await outcome(stream() if is_stream else service.flow.process(task, timeout))
    assert isinstance(error, Exception), error
    assert not visited(task)
    gc.collect()
    return error


async def test_the_results_of_all_branches_are_joined(service: Service, subtests: pytest.Subtests) -> None:
    flow = service.flow
    for size, name in itertools.product(SIZES, IN_BRANCHES):
        with subtests.test("joined, deleted, changed in place", size=size, name=name):
            tasks = [service.plan(size) for _ in range(10)]
            await asyncio.gather(*[flow.process(task, DEADLINE) for task in tasks])
            for task in tasks:
                check(task)
            plan: Any = await flow.process(service.plan(size, **{name: "delete_data"}), DEADLINE)
            assert not hasattr(plan, "data")
            plan = await flow.process(service.plan(size, **{name: "append"}), DEADLINE)
            assert plan.visited == ["caller", name]
            plan = await flow.process(service.plan(size, **{name: "replace_array"}), DEADLINE)
            assert plan.array.sum() == size and plan.data == bytes(size)
    for size in SIZES:
        with subtests.test("one branch sets a field several times", size=size):
            acts = dict.fromkeys(("first", "right", "up", "far", "last"), "append")
            plan = await flow.process(service.plan(size, **acts), DEADLINE)
            assert plan.visited == ["caller", "first", "right", "up", "far", "last"]


async def test_steps_whose_conditions_are_not_met_are_left_out(service: Service, subtests: pytest.Subtests) -> None:
    kinds: list[tuple[str, ...]] = [(name,) for name in NAMES]
    kinds += [("left", "up"), ("right", "up", "down"), ("up", "down"), IN_BRANCHES, (*IN_BRANCHES, "last")]
    kinds += [("first", *IN_BRANCHES), NAMES, ("first", "last"), ("left", "far"), ("left", "right", "up", "down")]
    for size, skipped in itertools.product(SIZES, kinds):
        with subtests.test(size=size, skipped=skipped):
            task: Any = await service.flow.process(service.plan(size, skipped), DEADLINE)
            assert visited(task) == set(NAMES) - set(skipped)
            assert {one.step for one in task.metrics.steps} == visited(task)
    for name in NAMES:
        with subtests.test("a condition raises", name=name):
            error = await failing(service, service.plan(10, **{name: "condition raises"}))
            assert isinstance(error, LookupError)
            del error


async def test_two_branches_cannot_set_the_same_field(service: Service, subtests: pytest.Subtests) -> None:
    right = "right > [up | down] > far"
    pairs = (("left", "far", ("left", right)), ("up", "down", ("up", "down")), ("down", "left", ("left", right)))
    for size, (one, other, names) in itertools.product(SIZES, pairs):
        with subtests.test(size=size, one=one, other=other):
            error = await failing(service, service.plan(size, **{one: "set_same", other: "set_same"}))
            assert isinstance(error, FieldConflict)
            assert (error.field, error.branches) == ("same", names)
            text = "field 'same' of a task of flow flow was set or deleted in two branches of a group, "
            assert str(error).startswith(f"{text}{names[0]} and {names[1]}")
            for act in ("append", "delete_data"):
                error = await failing(service, service.plan(size, **{one: act, other: act}))
                assert isinstance(error, FieldConflict)
            error = await failing(service, service.plan(size, **{one: "set_same", other: "set_same"}), is_stream=True)
            assert isinstance(error, FieldConflict)
            del error
    await eventually(lambda: incidents(service.flow) == {("error", "FieldConflict")})


def incidents(flow: Flow) -> set[tuple[str, str]]:
    """Return what has gone wrong in steps in the group, by kind and name, as the status page shows it."""
    return {(one.kind, one.subject) for name in IN_BRANCHES for one in flow.steps[name].statistics().incidents}


async def test_the_first_failure_ends_the_task(service: Service, subtests: pytest.Subtests) -> None:
    for size, name in itertools.product(SIZES, IN_BRANCHES):
        with subtests.test(size=size, name=name):
            for act, kind in (("raise_error", ValueError), ("fail", ValueError), ("unpicklable", TaskNotPicklable)):
                error = await failing(service, service.plan(size, **{name: act}))
                assert isinstance(error, kind), error
            other = "left" if name != "left" else "right"  # which a worker has in hand
            task = service.plan(size, **{name: "raise_while_held", other: "hold"})
            assert isinstance(await failing(service, task), ValueError)
            Gate(task.path, "held").open()
            del error, task


async def test_a_deadline_and_a_caller_that_leaves_end_all_branches(
    service: Service, subtests: pytest.Subtests
) -> None:
    for size, name in itertools.product(SIZES, IN_BRANCHES):
        with subtests.test("deadline", size=size, name=name):
            task = service.plan(size, **{name: "enter_gate"})
            error = await failing(service, task, timeout=0.3)
            assert isinstance(error, TaskTimeout)
            Gate(task.path, name).open()
            del error, task
        with subtests.test("cancellation", size=size, name=name):
            task = service.plan(size, **{name: "enter_gate"})
            gate = Gate(task.path, name)
            calling = asyncio.create_task(service.flow.process(task, DEADLINE))
            await eventually(gate.is_entered)
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            await fresh(service.flow)
            gate.open()
            del task, calling


async def test_a_timeout_tells_where_each_branch_was(service: Service) -> None:
    task = service.plan(10, left="enter_gate", up="enter_gate")
    gates = Gate(task.path, "left"), Gate(task.path, "up")
    calling = asyncio.create_task(outcome(service.flow.process(task, 3.0)))
    for gate in gates:
        await eventually(gate.is_entered)
    error = await calling
    assert isinstance(error, TaskTimeout)
    assert re.search(r"it was in the hands of step left .*, and in the hands of step up ", str(error))
    found = {name: service.flow.steps[name].statistics().incidents for name in NAMES}
    assert {name for name, incidents in found.items() if incidents} == {"left", "up"}  # as the status page shows
    for gate in gates:
        gate.open()
    del error, calling, task


async def test_branches_that_wait_are_withdrawn_with_the_task(service: Service) -> None:
    held = service.plan(10, left="enter_gate")
    gate = Gate(held.path, "left")
    holding = asyncio.create_task(service.flow.process(held, DEADLINE))
    await eventually(gate.is_entered)
    plans = [service.plan(40_000) for _ in range(5)]
    waiting = [asyncio.create_task(service.flow.process(plan, DEADLINE)) for plan in plans]
    await eventually(lambda: service.flow.statistics().steps[1].queued >= 4)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await eventually(lambda: service.flow.statistics().steps[1].queued == 0)
    gate.open()
    await holding
    check(held)


@pytest.mark.processes
async def test_the_branch_of_a_dead_worker_is_tried_again_alone(tmp_path: Path, subtests: pytest.Subtests) -> None:
    async with running(branched(timing=PROMPT)) as flow:
        service = Service(flow, tmp_path)
        for size, name in zip((*SIZES, *SIZES, SIZES[1]), ("left", "right", "up", "far", "last"), strict=True):
            with subtests.test(size=size, name=name):
                other = "left" if name != "left" else "right"
                task = service.plan(size, **{name: "die_once", other: "note_run"})
                await flow.process(task, DEADLINE)
                check(task)
                assert notes(task.path / "runs") == [other]
                error = await failing(service, service.plan(size, **{name: "die"}))
                assert isinstance(error, WorkerDied) and error.step == name
                del task, error
        await service.is_clean()


async def test_items_of_branches_side_by_side_wait_for_the_consumer(service: Service) -> None:
    for size, sender in itertools.product(SIZES, IN_BRANCHES):
        task: Any = service.plan(size, first="emit", last="emit", **{sender: "emit"})
        items = [item async for item in service.flow.stream(task, DEADLINE)]
        assert items == [(one, number) for one in ("first", sender, "last") for number in range(3)]
        check(task)
    task = service.plan(10, first="emit_large", left="emit_large", up="emit_large", down="emit_large")
    numbers: dict[str, list[int]] = {}
    async for name, number, _ in service.flow.stream(task, DEADLINE):
        numbers.setdefault(name, []).append(number)
    assert numbers == {name: list(range(40)) for name in ("first", "left", "up", "down")}
    check(task)
    task = service.plan(10, left="emit_large", up="emit_large", down="emit_large")
    async for _ in service.flow.stream(task, DEADLINE):
        break
    await eventually(lambda: not service.flow.statistics().in_flight)


async def test_a_group_may_come_first_and_last(tmp_path: Path) -> None:
    size = 40_000
    names = ("left", "right", "up", "down")
    left, right, up, down = (step(name) for name in names)
    async with running(Flow([left, right], [up, down], mp_start_method="forkserver", queue_size=2)) as flow:
        service = Service(flow, tmp_path)
        tasks: list[Any] = [service.plan(size) for _ in range(30)]
        await asyncio.gather(*[flow.process(task, DEADLINE) for task in tasks])
        for task in tasks:
            assert visited(task) == set(names)
            assert task.seen_by_up == task.seen_by_down == ["left", "right"]
            assert task.seen_by_left == task.seen_by_right == []
        for count in range(len(names) + 1):
            for skipped in itertools.combinations(names, count):
                plan: Any = await flow.process(service.plan(size, skipped), DEADLINE)
                assert visited(plan) == set(names) - set(skipped)
        error = await failing(service, service.plan(size, up="set_same", down="set_same"))
        assert isinstance(error, FieldConflict)
        del tasks, task, plan, error


@pytest.mark.parametrize("is_nested", [False, True])
async def test_what_a_later_step_of_a_branch_replaces_is_released(is_nested: bool, tmp_path: Path) -> None:
    """While the branch goes on; the others see the task as it came."""
    gate = Gate(tmp_path)
    second: Any = [Each(replace_image), Each(pass_on)] if is_nested else Each(replace_image)
    async with running(forked([(Each(replace_image), second, Each(enter_gate), Each(sum_up)), Each(pass_on)])) as flow:
        task = Job(image=np.zeros(40_000, np.uint8), gate=gate)
        calling = asyncio.create_task(flow.process(task, DEADLINE))
        await eventually(gate.is_entered)
        await eventually(lambda: blocks(flow) == 2)  # as it came, and as the second step has left it
        gate.open()
        await calling
        assert (task.total, task.image.sum()) == (80_000, 80_000)
        del task, calling


def test_the_shape_of_a_flow() -> None:
    flow = branched(name="v")
    assert flow.shape == SHAPE
    assert repr(flow) == "<Flow v stopped: first > [left | right > [up | down] > far] > last>"
    assert list(flow.steps) == list(NAMES)
    assert flow.steps["step3_Act"] == flow.steps["right"]
    assert Flow(step("a"), step("b")).shape == ("a", "b")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([step("a")],), "a group needs at least two branches, which run side by side, got 1"),
        (([],), "at least two branches.*got 0"),
        (((step("a"), step("b")),), "a tuple is a branch of several steps, so it belongs into the list of a group"),
        (([step("a"), [step("b"), step("c")]],), "a list directly in the list of a group"),
        (([step("a"), ()],), r"a branch of a group needs at least one step, got an empty tuple"),
        (([step("a"), 3],), "FlowStep needs an instance of a BaseTaskHandler subclass, got 3"),
        (([step("a"), step("a")],), "steps 1 and 2 of a flow have the same name 'a'"),
        (([step(f"s{number}") for number in range(63)],), "a flow with a group can have at most 62 steps, got 63"),
    ],
)
def test_a_group_that_cannot_work_is_refused(parts: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Flow(*parts)


@pytest.mark.parametrize(
    "options", [{"batch_key": "size"}, {"batch_cost": Cost("size", limit=9)}, {"coalesce_key": "size"}], ids=str
)
def test_what_is_evaluated_with_the_task_cannot_stand_directly_behind_a_group(options: dict[str, Any]) -> None:
    (option,) = options
    keyed, group = step("keyed", **options), [step("a"), step("b")]
    message = f"keyed comes directly behind a group.*so it cannot have {option}: .*; put a step between them, or leave"
    refused: list[list[Any]] = [
        [group, keyed],
        [group, [keyed, step("c")]],
        [group, [(keyed, step("c")), step("d")]],
        [step("c"), [(group, keyed), step("d")]],
        [[(step("c"), group), step("d")], keyed],
    ]
    for parts in refused:
        with pytest.raises(ConfigurationError, match=message):
            Flow(*parts)
    Flow(keyed, group)
    Flow(group, step("c"), keyed)
    Flow(step("c"), [keyed, (step("e"), group)])
    Flow(step("c"), [(group, step("e"), keyed), step("d")])
