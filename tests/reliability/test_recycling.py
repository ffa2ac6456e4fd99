"""Workers that are replaced because they are worn, while work goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.engine.statistics import WearKind
from fastapi_aqueduct.engine.timing import Timing

from .. import handlers as common
from ..handlers import Each, Gate, Job, Noting, notes
from ..support import DEADLINE, eventually, outcome, pids, running
from .handlers import Leaking, fill
from .support import complete

CLIENTS = 8
RECYCLED = 3
"""Workers that are replaced while the clients call: each of the first two, and a replacement."""

WATCHFUL = Timing(memory_interval=0.02)


class Watch:
    """Looks at the workers of a step in every turn of the event loop in which something happens.

    Attributes:
        most: The most workers at one time.
        fewest_ready: The fewest workers that took tasks at one time.
        seen: Every worker that was ready.
    """

    def __init__(self, flow: Flow) -> None:
        self.most = 0
        self.fewest_ready = 1000
        self.seen: set[int] = set()
        self._flow = flow

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _look(self) -> None:
        while True:
            ready = pids(self._flow)
            self.seen.update(ready)
            self.most = max(self.most, len(self._flow.statistics().steps[0].workers))
            self.fewest_ready = min(self.fewest_ready, len(ready))
            await asyncio.sleep(0.001)


async def load_until(flow: Flow, enough: Any) -> list[Any]:
    """Have clients call one after the other until something has come about; return how each call ended."""
    ends: list[Any] = []

    async def client() -> None:
        while not enough():
            job = Job(number=1, payload=b"x" * 20_000)
            end = await outcome(flow.process(job, DEADLINE))
            ends.append(end if isinstance(end, Exception) else None)

    await asyncio.wait_for(asyncio.gather(*[client() for _ in range(CLIENTS)]), DEADLINE)
    return ends


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        (WearKind.TASKS, {"max_tasks": 40, "max_tasks_jitter": 40}),
        (WearKind.AGE, {"max_age": 0.4}),
        (WearKind.MEMORY, {"max_memory_growth": 30 << 20}),
    ],
)
async def test_no_request_notices_that_workers_are_replaced(kind: WearKind, limits: dict[str, Any]) -> None:
    step = FlowStep(Leaking(1 << 20) if "max_memory_growth" in limits else Each(common.tell_pid), nprocs=2, **limits)
    async with running(Flow(step, timing=WATCHFUL)) as flow, Watch(flow) as watch:
        before = set(pids(flow))
        ends = await load_until(flow, lambda: flow.statistics().steps[0].recycled >= RECYCLED)
        assert [end for end in ends if end is not None] == []
        # Where a start takes longer than `max_age`, a worker is being replaced all the time.
        await eventually(lambda: not before & set(pids(flow)))
        assert watch.most == 3
        assert watch.fewest_ready == 2
        assert len(watch.seen) >= RECYCLED + 2
        statistics = flow.statistics().steps[0]
        assert statistics.restarts == 0
        assert statistics.recycled_by_kind == dict.fromkeys(WearKind, 0) | {kind: statistics.recycled}
        assert flow.statistics().failed == 0


async def test_memory_that_is_kept_for_the_next_batch_is_no_growth() -> None:
    async with running(Flow(FlowStep(Each(fill), max_memory_growth=30 << 20), timing=WATCHFUL)) as flow:
        for size in [0] + [80] * 40:
            await flow.process(Job(size=size), DEADLINE)
        assert flow.statistics().steps[0].recycled == 0


async def test_idle_workers_grow_old_too() -> None:
    async with running(Flow(FlowStep(Each(common.tell_pid), nprocs=3, max_age=0.3))) as flow, Watch(flow) as watch:
        before = set(pids(flow))
        await eventually(lambda: not before & set(pids(flow)))
        assert watch.most == 4
        assert watch.fewest_ready == 3


async def test_a_worn_worker_finishes_what_it_has_and_runs_on_stop(tmp_path: Path) -> None:
    path = tmp_path / "life"
    async with running(Flow(FlowStep(Noting(path), max_tasks=1))) as flow:
        (first,) = pids(flow)
        await flow.process(Job())
        await eventually(lambda: pids(flow) not in ([], [first]))
        await eventually(lambda: notes(path) == ["start", "handle", "start", "stop"])


async def test_a_worn_worker_that_is_busy_leaves_when_it_is_done(tmp_path: Path) -> None:
    step = FlowStep(Each(common.enter_gate_if_any, common.tell_pid), max_tasks=1)
    async with running(Flow(step)) as flow:
        gate = Gate(tmp_path)
        (first,) = pids(flow)
        jobs = [asyncio.create_task(flow.process(Job(gate=mine), 60)) for mine in (None, gate)]
        await eventually(gate.is_entered)
        await eventually(lambda: pids(flow) not in ([], [first]))
        states = {worker.pid: worker.state for worker in flow.statistics().steps[0].workers}
        assert states[first] == "retiring"
        assert (await flow.process(Job())).pid != first
        gate.open()
        assert {(await job).pid for job in jobs} == {first}
        await eventually(lambda: first not in [worker.pid for worker in flow.statistics().steps[0].workers])


async def test_a_worn_worker_that_dies_is_not_replaced_twice(tmp_path: Path) -> None:
    step = FlowStep(Each(common.enter_gate_if_any, common.tell_pid), max_tasks=1)
    async with running(Flow(step)) as flow, Watch(flow) as watch:
        gate = Gate(tmp_path)
        (first,) = pids(flow)
        quick = asyncio.create_task(flow.process(Job(gate=None), 60))
        held = asyncio.create_task(flow.process(Job(gate=gate), 60))
        await quick
        await eventually(gate.is_entered)
        await eventually(lambda: pids(flow) not in ([], [first]))
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: flow.statistics().steps[0].retries == 1)
        gate.open()
        assert (await held).pid != first
        await complete(flow, 1)
        assert watch.most == 2
