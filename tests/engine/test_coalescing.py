"""Tasks with an equal key that are in flight at a step share one run of it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import (
    ConfigurationError,
    FieldConflict,
    Flow,
    FlowStep,
    NotRunningError,
    TaskTimeout,
    WorkerDied,
)
from fastapi_aqueduct.reports import TaskRecord

from .. import handlers
from ..handlers import Gate, notes
from ..shared.pipeline import sharing
from ..support import blocks, contenders, engine_of, eventually, forked, outcome, running
from .coalesced import LARGE, SMALL, Letter, Ocr, Page, Side, is_long, ocr, owned, stamp

Caller = asyncio.Task[Any]

MIB = 1 << 20


class Pages:
    """Callers of a flow with pages, whose handler they hold at a gate.

    Args:
        flow: The flow.
        directory: A directory of the test.
        size: Elements of the arrays of each page.
    """

    def __init__(self, flow: Flow, directory: Path, size: int = SMALL) -> None:
        self.flow = flow
        self.directory = directory
        self.size = size
        self.gate = Gate(directory)

    def send(
        self, user: str, digest: Any = "d", timeout: float = 60.0, cls: type[Page] = Page, **fields: Any
    ) -> Caller:
        """Process a page."""
        task = cls(digest, user, self.directory, self.size, **fields)
        return asyncio.create_task(self._process(task, timeout))

    async def hold(self, *users: str, **fields: Any) -> list[Caller]:
        """Process pages of users that share a run, which is at the gate when this returns; the first one leads."""
        callers = [self.send(user, **fields) for user in users]
        await eventually(self.gate.is_entered)
        await eventually(lambda: self.coalesced >= len(users) - 1)
        return callers

    async def _process(self, task: Page, timeout: float) -> Page:
        await self.flow.process(task, timeout)
        return task

    @property
    def runs(self) -> list[str]:
        """The user and digest of each run of the handler."""
        return notes(self.directory / "runs")

    @property
    def coalesced(self) -> int:
        """How many tasks have followed."""
        return self.flow.statistics().steps[0].coalesced


async def is_empty(flow: Flow) -> None:
    """Check that nothing is kept of any run."""
    await eventually(lambda: flow.statistics().in_flight == 0 and blocks(flow) == 0)
    dispatcher = engine_of(flow).dispatcher
    assert not dispatcher._coalescing._tickets
    for stage in dispatcher.stages:
        assert stage.queue.count == 0
        assert not stage.runs or not (stage.runs._open or stage.runs._run_of)


# What tasks share


async def test_a_hundred_tasks_share_one_run(tmp_path: Path) -> None:
    """And those with another key do not."""
    async with running(forked(ocr(), stamp(nprocs=2))) as flow:
        pages = Pages(flow, tmp_path, LARGE)
        callers = await pages.hold(*(f"user{number}" for number in range(100)))
        callers += [pages.send("other", digest="e")]
        pages.gate.open()
        tasks = await asyncio.gather(*callers)
        assert pages.runs == ["user0/d", "other/e"]
        assert pages.coalesced == 99
        for number, task in enumerate(tasks[:-1]):
            assert (task.user, task.text) == (f"user{number}", "d read for user0")
            assert task.stamp == f"user{number}: d read for user0"
            assert (task.image == 7).all() and (task.result == 8).all()
        assert tasks[-1].text == "e read for other"
        later = await pages.send("later")  # there is no cache
        assert later.text == "d read for later"
        statistics = flow.statistics()
        assert (statistics.completed, statistics.steps[0].queued, pages.coalesced) == (102, 0, 99)
        del tasks, callers, later, task
        await is_empty(flow)


async def test_the_fields_of_a_user_never_reach_another_one(tmp_path: Path) -> None:
    """With the user in the key; and without it nothing but what the step has set."""
    async with running(forked(ocr(owned, nprocs=4))) as flow:
        pages = Pages(flow, tmp_path, LARGE)
        users = ["ann", "bob", "eve"]
        callers = [
            pages.send(user, secret=f"of {user}", own=np.full(LARGE, index)) for user in users for index in (1, 2)
        ]
        await eventually(lambda: pages.coalesced == 3)
        pages.gate.open()
        await asyncio.wait(callers)
        for number, (user, index) in enumerate(itertools.product(users, (1, 2))):
            task = callers[number].result()
            assert (task.user, task.secret, task.text) == (user, f"of {user}", f"d read for {user}")
            assert (task.own == index).all()
        assert sorted(pages.runs) == ["ann/d", "bob/d", "eve/d"]
        del task, callers
    other = tmp_path / "other"
    other.mkdir()
    async with running(forked(ocr("digest"))) as flow:
        pages = Pages(flow, other)
        callers = await pages.hold("ann", secret="of ann", note=[1], acts=("delete",))
        callers.append(pages.send("bob", secret="of bob", mine=["bob"]))
        await eventually(lambda: pages.coalesced == 1)
        pages.gate.open()
        ann, bob = await asyncio.gather(*callers)
        assert (bob.secret, bob.mine, bob.user, bob.text) == ("of bob", ["bob"], "bob", "d read for ann")
        assert bob.task_id != ann.task_id
        assert not {"note", "mine"} & ann.__dict__.keys()
        assert "note" not in bob.__dict__


async def test_a_condition_behind_is_that_of_each_task(tmp_path: Path) -> None:
    last = FlowStep(handlers.Each(handlers.pass_on))
    async with running(forked(ocr(), stamp(handle_condition=is_long), last)) as flow:
        pages = Pages(flow, tmp_path)
        callers = await pages.hold("long1", "short", "long2")
        pages.gate.open()
        long1, short, long2 = await asyncio.gather(*callers)
        assert [hasattr(task, "stamp") for task in (long1, short, long2)] == [True, False, True]
        assert len(short.metrics.steps) >= 2


async def test_a_task_that_passes_a_step_keeps_its_key_for_the_next_one(tmp_path: Path) -> None:
    """The task that has begun a run, too: of it the worker of the run knows where it goes."""
    last = FlowStep(handlers.Each(handlers.pass_on), batch_size=2, batch_timeout=0.2, batch_key="digest")
    async with running(forked(ocr(), stamp(handle_condition=is_long), last)) as flow:
        pages = Pages(flow, tmp_path)
        callers = [pages.send("a", digest=digest) for digest in ("x", "y")]
        pages.gate.open()
        tasks = await asyncio.gather(*callers)
        assert [task.metrics.steps[-1].batch_size for task in tasks] == [1, 1]


async def test_what_is_set_for_writing_is_shared_with_none(tmp_path: Path) -> None:
    """The task that has begun the run gets it; the others run by themselves."""
    async with running(forked(ocr(), stamp())) as flow:
        pages = Pages(flow, tmp_path, LARGE)
        callers = await pages.hold("a", "b", "c", acts=("share",) * 3)
        pages.gate.open()
        tasks = await asyncio.gather(*callers)
        assert sorted(pages.runs) == ["a/d", "b/d", "c/d"]
        assert pages.runs[0] == "a/d"
        for task in tasks:
            assert task.text == f"d read for {task.user}"
            assert (task.result == 9).all()
            task.result += 1
        assert all((task.result == 10).all() for task in tasks)
        del tasks, task, callers
        await is_empty(flow)


async def test_branches_share_runs(tmp_path: Path) -> None:
    """Each task gets what the run and its own other branches have set, also when the first one has left."""
    async with running(forked([ocr(), FlowStep(Side(), name="side")], stamp())) as flow:
        pages = Pages(flow, tmp_path, LARGE)
        callers = await pages.hold("a", "b", "both", "c")
        callers[0].cancel()
        await asyncio.wait(callers[:1])
        callers.append(pages.send("d"))
        await eventually(lambda: pages.coalesced == 4)
        pages.gate.open()
        first, conflict, second, third = [await outcome(caller) for caller in callers[1:]]
        assert isinstance(conflict, FieldConflict)
        assert (conflict.field, conflict.branches) == ("text", ("ocr", "side"))
        for user, task in (("b", first), ("c", second), ("d", third)):
            assert (task.text, task.side, task.stamp) == ("d read for a", user, f"{user}: d read for a")
            assert (task.result == 8).all()
        assert pages.runs == ["a/d"]
        del callers, first, conflict, second, third, task
        await is_empty(flow)


@pytest.mark.processes
async def test_a_death_in_a_branch_is_tried_again_once_for_all(tmp_path: Path) -> None:
    async with running(forked([ocr(), FlowStep(Side(), name="side")], stamp())) as flow:
        pages = Pages(flow, tmp_path, LARGE)
        callers = await pages.hold("a", "b", acts=("die",))
        pages.gate.open()
        for user, task in zip("ab", await asyncio.gather(*callers), strict=True):
            assert (task.text, task.side, task.stamp) == ("d read for a", user, f"{user}: d read for a")
        assert (pages.runs, sorted(notes(tmp_path / "sides"))) == (["a/d"] * 2, ["a", "b"])
        del callers, task
        await is_empty(flow)


# What never shares


async def test_what_shares_no_run(tmp_path: Path) -> None:
    """A task of another class, one without a key, one that is shared for writing, a stream."""
    async with running(forked(ocr(nprocs=1))) as flow:
        pages = Pages(flow, tmp_path, LARGE)
        callers = await pages.hold("first")
        callers += [pages.send("class", cls=Letter), pages.send("none", digest=None), pages.send("none", digest=None)]
        shared = Page("d", "written", tmp_path, LARGE)
        shared.share_value("image")
        callers.append(asyncio.create_task(outcome(flow.process(shared, 60))))
        stream = asyncio.create_task(read(flow, Page("d", "stream", tmp_path)))
        await eventually(lambda: flow.statistics().in_flight == 6)
        assert flow.statistics().steps[0].queued == 5
        pages.gate.open()
        await asyncio.gather(*callers, stream)
        assert sorted(pages.runs) == ["class/d", "first/d", "none/None", "none/None", "stream/d", "written/d"]
        assert pages.coalesced == 0
        del shared, callers
        await is_empty(flow)


async def read(flow: Flow, task: Page) -> list[Any]:
    items = [item async for item in flow.stream(task, 60)]
    assert task.text == "d read for stream"
    return items


@pytest.mark.processes
def test_what_cannot_be_declared() -> None:
    for steps, words in (
        ((FlowStep, {"coalesce_key": "digest", "max_retries": 0}), "has max_retries=0"),
        ((FlowStep, {"coalesce_key": lambda task: 1}), "coalesce_key of the step with Ocr is a lambda"),
        ((FlowStep, {"coalesce_key": 5}), "coalesce_key of the step with Ocr needs the name of a field, or a function"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            steps[0](Ocr(), **steps[1])
    for option in ({"coalesce_key": "text"}, {"batch_key": "text"}):
        with pytest.raises(ConfigurationError, match="coalesce"):
            Flow(ocr(), stamp(**option))
    Flow(ocr(), stamp(), FlowStep(Ocr(), coalesce_key="text", name="again"))


# Who leaves


async def test_the_run_goes_on_when_its_first_task_leaves(tmp_path: Path) -> None:
    async with running(forked(ocr())) as flow:
        pages = Pages(flow, tmp_path)
        leader, second, third = await pages.hold("a", "b", "c")
        leader.cancel()
        await asyncio.wait([leader])
        fourth = pages.send("d")  # it may enter still
        await eventually(lambda: pages.coalesced == 3)
        second.cancel()
        await asyncio.wait([second])
        pages.gate.open()
        assert [(await caller).text for caller in (third, fourth)] == ["d read for a"] * 2
        assert pages.runs == ["a/d"]
        statistics = flow.statistics()
        assert (statistics.completed, statistics.cancelled) == (2, 2)


async def test_each_task_has_its_own_deadline(tmp_path: Path) -> None:
    """The first one's passes, in the worker and in the queue, and the run goes on for the other."""
    async with running(forked(ocr())) as flow:
        pages = Pages(flow, tmp_path)
        first, waiting = pages.send("a", timeout=1.5), pages.send("c", digest="e", timeout=1.5)
        callers = [pages.send("b"), pages.send("d", digest="e")]
        errors = [await outcome(caller) for caller in (first, waiting)]
        assert [type(error) for error in errors] == [TaskTimeout] * 2
        pages.gate.open()
        tasks = await asyncio.gather(*callers)
        assert [task.text for task in tasks] == ["d read for a", "e read for c"]
        assert pages.runs == ["a/d", "c/e"]


@pytest.mark.own
async def test_a_timeout_tells_where_the_run_was(tmp_path: Path) -> None:
    async with running(forked(ocr())) as flow:
        pages = Pages(flow, tmp_path)
        leader, follower = pages.send("a", timeout=0.5), pages.send("b")
        waiting, behind = pages.send("c", digest="e", timeout=0.5), pages.send("d", digest="e")
        error = await outcome(leader)
        assert "it was sharing a run with 1 other tasks, which was in the hands of step ocr (pid" in str(error)
        assert "which was waiting for step ocr" in str(await outcome(waiting))
        pages.gate.open()
        await asyncio.gather(follower, behind)
        alone = await outcome(pages.send("z", acts=("read",) * 2 + ("wait",), timeout=0.2))
        assert isinstance(alone, TaskTimeout) and "sharing" not in str(alone)


async def test_the_run_ends_when_all_have_left(tmp_path: Path) -> None:
    """Only then its worker gets to know; the next task with the key begins another run."""
    async with running(forked(ocr())) as flow:
        pages = Pages(flow, tmp_path)
        callers = await pages.hold("a", "b", "c", acts=("wait",))
        pages.gate.open()
        queued = [pages.send(user, digest="e") for user in ("d", "e")]
        await eventually(lambda: pages.coalesced == 3)
        for caller in (*callers[:2], *queued):
            caller.cancel()
        await asyncio.wait([*callers[:2], *queued])
        await eventually(lambda: flow.statistics().steps[0].queued == 0)
        assert not notes(tmp_path / "cancelled")
        callers[2].cancel()
        await asyncio.wait(callers)
        await eventually(lambda: notes(tmp_path / "cancelled") == ["a"])
        assert (await pages.send("f")).text == "d read for f"
        assert pages.runs == ["a/d", "f/d"]
        del callers, queued
        await is_empty(flow)


@pytest.mark.parametrize("digest", ["d", None], ids=["shared", "alone"])
async def test_the_result_for_tasks_that_have_left_is_released(digest: str | None, tmp_path: Path) -> None:
    """The worker may use that memory again, also if it has not seen that they left."""
    async with running(forked(ocr())) as flow:
        for number in range(12):
            directory = tmp_path / str(number)
            directory.mkdir()
            pages = Pages(flow, directory, MIB)
            caller = pages.send("a", digest)
            await eventually(pages.gate.is_entered)
            caller.cancel()
            await asyncio.wait([caller])
            del caller
            pages.gate.open()
        assert (await pages.send("b", digest)).text == f"{digest} read for b"
        assert flow.statistics().arena.touched <= 6 * MIB


# Failures


async def test_a_failure_fails_all(tmp_path: Path) -> None:
    """Each gets an exception of its own, and the next task with the key begins another run."""
    async with running(forked(ocr(max_retries=1))) as flow:
        pages = Pages(flow, tmp_path)
        callers = await pages.hold("a", "b", "c", acts=("raise",))
        pages.gate.open()
        errors = [await outcome(caller) for caller in callers]
        assert [(type(error), str(error)) for error in errors] == [(ValueError, "page d of a")] * 3
        assert len({id(error) for error in errors}) == len({id(error.__cause__) for error in errors}) == 3
        assert (await pages.send("d")).text == "d read for d"
        assert flow.statistics().failed == 3


async def test_runs_share_batches_of_their_key_and_fail_by_themselves(tmp_path: Path) -> None:
    """The handler runs again for each run of a batch that fails, and a run that moves up keeps its key."""
    async with running(forked(ocr(batch_key="kind", batch_size=4), queue_priorities=2)) as flow:
        pages = Pages(flow, tmp_path)
        callers = await pages.hold("first", digest="w", kind=0)
        callers += [pages.send("a", digest="x", kind=1, acts=("raise",) * 9) for _ in range(2)]
        callers += [pages.send("b", digest="y", kind=1, priority=priority) for priority in (0, 1)]
        callers += [pages.send("c", digest="z", kind=2) for _ in range(2)]
        await eventually(lambda: pages.coalesced == 3 and flow.statistics().steps[0].queued_by_priority == (2, 1))
        pages.gate.open()
        _, *failed, third, fourth, fifth, sixth = [await outcome(caller) for caller in callers]
        assert [str(error) for error in failed] == ["page x of a"] * 2
        assert [task.text for task in (third, fourth)] == ["y read for b"] * 2
        assert [task.text for task in (fifth, sixth)] == ["z read for c"] * 2
        sizes = [task.metrics.steps[0].batch_size for task in (third, fourth, fifth, sixth)]
        assert sizes == [2, 2, 1, 1]
        await is_empty(flow)


@pytest.mark.processes
async def test_a_death_is_tried_again_once_for_all(tmp_path: Path) -> None:
    async with running(forked(ocr())) as flow:
        pages = Pages(flow, tmp_path)
        callers = await pages.hold("a", "b", "c", acts=("die",))
        pages.gate.open()
        assert [task.text for task in await asyncio.gather(*callers)] == ["d read for a"] * 3
        assert pages.runs == ["a/d", "a/d"]
        assert flow.statistics().steps[0].retries == 1


@pytest.mark.processes
async def test_a_run_that_kills_two_workers_fails_all(tmp_path: Path) -> None:
    async with running(forked(ocr())) as flow:
        pages = Pages(flow, tmp_path)
        callers = await pages.hold("a", "b", acts=("die", "die"))
        pages.gate.open()
        errors = [await outcome(caller) for caller in callers]
        assert [type(error) for error in errors] == [WorkerDied] * 2 and errors[0] is not errors[1]
        assert "ocr" in str(errors[1])
        assert pages.runs == ["a/d"] * 2
        await eventually(lambda: flow.statistics().steps[0].ready_workers == 1)


# What a follower is for the scheduler


async def test_a_run_in_the_queue_is_as_urgent_as_its_most_urgent_task(tmp_path: Path) -> None:
    async with running(forked(ocr(), queue_priorities=3)) as flow:
        pages = Pages(flow, tmp_path)
        callers = await pages.hold("first", digest="x")
        callers += [pages.send("a", digest="a"), pages.send("b", digest="b", priority=1)]
        await eventually(lambda: flow.statistics().steps[0].queued_by_priority == (1, 1, 0))
        callers += [pages.send("c", digest="a", priority=1), pages.send("d", digest="a", priority=2)]
        await eventually(lambda: flow.statistics().steps[0].queued_by_priority == (0, 1, 1))
        callers.append(pages.send("e", digest="a"))
        await eventually(lambda: pages.coalesced == 3)
        callers[1].cancel()
        await asyncio.wait(callers[1:2])
        pages.gate.open()
        tasks = await asyncio.gather(*callers[:1], *callers[2:])
        assert [task.text for task in tasks] == ["x read for first", "b read for b"] + ["a read for a"] * 3
        assert pages.runs == ["first/x", "a/a", "b/b"]
        await is_empty(flow)


async def test_a_task_that_follows_takes_no_place_in_the_queue(tmp_path: Path) -> None:
    async with running(forked(ocr(), queue_size=1)) as flow:
        pages = Pages(flow, tmp_path)
        callers = await pages.hold("first", digest="x")
        callers.append(pages.send("a"))
        await eventually(lambda: flow.statistics().steps[0].queued == 1)
        callers.append(pages.send("waits", digest="z"))
        await eventually(lambda: contenders(flow) == 1)
        callers += [pages.send(f"b{number}") for number in range(5)]
        await eventually(lambda: pages.coalesced == 5)
        assert (contenders(flow), flow.statistics().steps[0].queued, flow.statistics().in_flight) == (1, 1, 7)
        pages.gate.open()
        await asyncio.gather(*callers)
        assert pages.runs == ["first/x", "a/d", "waits/z"]


@pytest.mark.processes
async def test_the_times_of_a_task_that_follows_are_its_own(tmp_path: Path) -> None:
    records: list[TaskRecord] = []
    flow = forked(ocr(), name="shared")
    flow.subscribers.append(records.append)
    async with running(flow):
        pages = Pages(flow, tmp_path)
        leader, follower = await pages.hold("a", "b")
        await asyncio.sleep(0.05)
        late = pages.send("c")
        await eventually(lambda: pages.coalesced == 2)
        pages.gate.open()
        tasks = [await caller for caller in (leader, follower, late)]
        steps = [record.steps[0] for record in records]
        assert [record.outcome for record in records] == ["completed"] * 3
        assert len({record.number for record in records}) == 3
        for task, record, step in zip(tasks, records, steps, strict=True):
            (times,) = task.metrics.steps
            assert (times.step, times.batch_size, step.pid) == ("ocr", 1, steps[0].pid)
            assert 0 <= times.queue_time and 0 < times.handle_time <= task.metrics.total_time
            assert record.started_at <= step.arrived_at <= step.sent_at <= step.answered_at <= record.ended_at
        assert steps[2].handle_time < steps[0].handle_time
        assert [step.sent_size > 0 for step in steps] == [True, False, False]


@pytest.mark.processes
async def test_a_canary_and_a_shadow_get_runs(tmp_path: Path) -> None:
    """A shadow gets one copy of a run, and a comparison counts the run once."""
    async with running(forked(ocr())) as flow:
        for kind in ("canary", "shadow"):
            directory = tmp_path / kind
            directory.mkdir()
            pages = Pages(flow, directory, LARGE)
            pages.gate.open()
            step = flow.steps["ocr"]
            trial: Any = step.canary(Ocr(), share=0.5) if kind == "canary" else step.shadow(Ocr())
            async with trial:
                for number in range(10):
                    callers = [pages.send(f"{user}", digest=number) for user in range(5)]
                    await asyncio.wait(callers)
                    assert {caller.result().text for caller in callers} == {f"{number} read for 0"}
                    callers.clear()
                    if kind == "shadow":
                        pair = await anext(trial)
                        assert [side.text for side in (pair.baseline, pair.candidate)] == [f"{number} read for 0"] * 2
                        assert (pair.candidate.result == pair.baseline.result).all()
                        assert (pair.baseline.user, pair.baseline.image[0]) == ("0", 7)
                        del pair
                report = trial.report()
            assert report.baseline.failed == report.candidate.failed == 0
            tasks = report.baseline.tasks, report.candidate.tasks
            assert tasks == ((5, 5) if kind == "canary" else (10, 10))
        await is_empty(flow)


@pytest.mark.processes
async def test_tasks_of_several_api_processes_share_runs(tmp_path: Path) -> None:
    """Each gets its own answer, also when the process with the first task goes."""
    flows = [forked(ocr(owned), name="pages", queue_size=1) for _ in range(2)]
    async with sharing(*flows) as pipeline:
        one, two = (Pages(flow, tmp_path, LARGE) for flow in flows)
        callers = await one.hold("ann", secret=1)
        callers += [two.send("ann", secret=2), two.send("bob", secret=3)]
        there = pipeline.engine.dispatcher.stages[0]
        await eventually(lambda: there.statistics().coalesced == 1 and there.queue.count == 1)
        callers.append(one.send("bob", secret=4))
        await eventually(lambda: there.statistics().coalesced == 2)
        callers[0].cancel()
        await asyncio.wait(callers[:1])
        one.gate.open()
        await asyncio.wait(callers)
        found = [(caller.result().user, caller.result().secret, caller.result().text) for caller in callers[1:]]
        assert found == [("ann", 2, "d read for ann"), ("bob", 3, "d read for bob"), ("bob", 4, "d read for bob")]
        assert one.runs == ["ann/d", "bob/d"]
        await eventually(lambda: flows[0].statistics().steps[0].coalesced == 2)
        callers.clear()
        # An idle process returns what it was lent when it is asked for memory, or for its statistics.
        await eventually(lambda: sum(map(blocks, flows)) == 0 == pipeline.engine.statistics("").arena.blocks)


# Nothing is kept


ENDINGS = (
    *("ok", "exception", "late leader", "late follower", "leader", "follower", "all", "queue", "death", "deaths"),
    *("mixed", "stop"),
)
"""How a run or the wait of some of its tasks ends."""


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.processes
async def test_no_block_is_left(size: int, tmp_path: Path) -> None:
    """However a run ends; one flow for all endings, as each must leave nothing."""
    flow = forked(ocr(), stamp())
    async with running(flow):
        for ending in ENDINGS:
            directory = tmp_path / ending
            directory.mkdir()
            await end(Pages(flow, directory, size), ending)
            if ending != "stop":
                await is_empty(flow)
                await eventually(lambda: flow.statistics().steps[0].ready_workers == 1)
    assert blocks(flow) == 0


async def end(pages: Pages, ending: str) -> None:
    acts = {"exception": ("raise",), "death": ("die",), "deaths": ("die", "die")}.get(ending, ())
    acts = ("share",) * 3 if ending == "mixed" else acts
    late = 1.5 if ending.startswith("late") else 60.0
    times = {"late leader": (late, 60.0), "late follower": (60.0, late)}.get(ending, (60.0, 60.0))
    first = pages.send("a", timeout=times[0], acts=acts)
    await eventually(pages.gate.is_entered)
    second = pages.send("b", timeout=times[1], acts=acts)
    third = pages.send("c", acts=acts)
    waiting = [pages.send("d", digest="e"), pages.send("e", digest="e")] if ending == "queue" else []
    before = pages.coalesced
    await eventually(lambda: pages.flow.statistics().in_flight == 3 + len(waiting))
    assert before <= pages.coalesced
    leaving = {"leader": [first], "follower": [second], "all": [first, second, third], "queue": waiting}.get(ending, [])
    for caller in leaving:
        caller.cancel()
    await asyncio.wait(leaving) if leaving else None
    if ending.startswith("late"):
        assert isinstance(await outcome(first if ending == "late leader" else second), TaskTimeout)
    if ending == "stop":
        stopping = asyncio.create_task(pages.flow.stop(graceful=False))
        found = await asyncio.gather(first, second, third, return_exceptions=True)
        assert all(isinstance(error, NotRunningError) for error in found)
        pages.gate.open()
        await stopping
        return
    pages.gate.open()
    found = await asyncio.gather(first, second, third, return_exceptions=True)
    expected = {"exception": ValueError, "deaths": WorkerDied}.get(ending, Page)
    kept = [one for caller, one in zip((first, second, third), found, strict=True) if caller not in leaving]
    kept = [one for one in kept if not isinstance(one, TaskTimeout)]
    assert {type(one) for one in kept} <= {expected} and (kept or ending == "all"), found
