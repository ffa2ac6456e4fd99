"""Workers that are killed and stopped at every point of a stream, in every form of handler.

Tests share a flow between the points: each stream has a worker of its own, and all meet their fates at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep, NotRunningError, TaskTimeout, WorkerDied
from fastapi_aqueduct.engine.timing import Timing

from .. import handlers
from ..handlers import AsyncYielding, Awaiting, Emitting, Gate, InLoop, Job, Rounds, Yielding, notes
from ..support import DEADLINE, eventually, outcome, pids, running
from .support import complete, is_stopped

HANDLE_TIMEOUT = 1.0

FORMS: dict[str, Callable[..., FlowStep]] = {
    "generator": lambda **options: FlowStep(Yielding(handlers.count_up), concurrency=8, **options),
    "plain": lambda **options: FlowStep(Emitting(), **options),
    "rounds": lambda batch_size=8, **options: FlowStep(Rounds(), batch_size=batch_size, **options),
    "continuous": lambda **options: FlowStep(Rounds(), batch_size=8, continuous=True, **options),
    "coroutine": lambda **options: FlowStep(Awaiting(), concurrency=8, **options),
    "async generator": lambda **options: FlowStep(AsyncYielding(handlers.count_up_in_loop), concurrency=8, **options),
}

COUNT = 5
POINTS = {"before the first item": 0, "between two items": 3, "after the last item": COUNT}
ENDLESS = 10**9

IN_LOOP = ("coroutine", "async generator")
"""Forms of which one that waits keeps no other one from running."""

side_by_side = pytest.mark.parametrize("form", [form for form in FORMS if form != "plain"])


def prompt_flow(form: str, nprocs: int = 1, **options: Any) -> Flow:
    """Make a flow whose workers are replaced at once."""
    step = FORMS[form](nprocs=nprocs, handle_timeout=HANDLE_TIMEOUT, **options)
    return Flow(step, mp_start_method="forkserver", timing=Timing(first_wait=0.05))


async def read(stream: Any, items: list[Any]) -> BaseException | None:
    """Collect items, and return the error that ends them."""
    try:
        async for item in stream:
            items.append(item)
    except Exception as exc:
        return exc
    return None


async def until_paused(stream: Any) -> None:
    """Wait until a stream is paused, and none of its items is on its way."""
    waiting = 0
    while waiting != len(stream._outlet) or not waiting:
        waiting = len(stream._outlet)
        await asyncio.sleep(0.1)


async def strike(pid: int, kind: signal.Signals) -> None:
    os.kill(pid, kind)
    if kind is signal.SIGSTOP:
        await eventually(lambda: is_stopped(pid) or not Path(f"/proc/{pid}").exists())


@dataclass
class Case:
    """A stream, and what happens to its worker.

    Attributes:
        signal: What the worker is sent.
        at: The number of the item before which; None: while the stream is paused.
        gate: Where the handler waits for that.
        flow: Where it streams.
    """

    signal: signal.Signals
    at: int | None
    gate: Gate
    flow: Flow = field(init=False)
    items: list[int] = field(default_factory=list)
    error: BaseException | None = None
    victim: int = 0
    total: int = 0

    async def run(self) -> None:
        """Stream, strike, and take down how the stream ends."""
        job = Job(
            count=ENDLESS if self.at is None else COUNT,
            act="gate",
            at=self.at or 0,
            gate=self.gate,
            payload=bytes(20_000),
        )
        stream = self.flow.stream(job, 60)
        if self.at is None:
            self.gate.open()
            self.items.append(await anext(stream))
            await until_paused(stream)
            (self.victim,) = self.gate.entrants()
            await strike(self.victim, self.signal)
            self.error = await read(stream, self.items)
        else:
            reader = asyncio.create_task(read(stream, self.items))
            await eventually(lambda: self.gate.entrants() and len(self.items) == self.at)
            (self.victim,) = self.gate.entrants()
            await strike(self.victim, self.signal)
            self.gate.open()
            self.error = await reader
        self.total = getattr(job, "total", 0)

    def check(self) -> None:
        """Compare the end with what must be: a stream without items is tried again, all others end."""
        assert self.items == list(range(len(self.items)))
        if self.at == 0:
            assert self.error is None
            assert (len(self.items), self.total) == (COUNT, COUNT)
            assert len(self.gate.entrants()) == 2
            assert self.gate.entrants()[1] != self.victim
            return
        assert self.gate.entrants() == [self.victim]
        assert len(self.items) == self.at or self.at is None
        assert isinstance(self.error, WorkerDied)
        assert (self.error.pid, self.error.exit_code) == (self.victim, -signal.SIGKILL)
        if self.signal is signal.SIGSTOP:
            assert "handle_timeout=1 " in str(self.error)


def make_cases(directory: Path, form: str) -> dict[str, Case]:
    """List what happens to the streams of a form, by name."""
    cases = {}
    for kind in (signal.SIGKILL, signal.SIGSTOP):
        for name, at in POINTS.items():
            cases[f"{kind.name} {name}"] = Case(kind, at, Gate(directory, f"{form} {kind.name} {at}"))
        if form != "coroutine":  # its `emit` does not wait
            cases[f"{kind.name} while paused"] = Case(kind, None, Gate(directory, f"{form} {kind.name} paused"))
    return cases


@pytest.mark.parametrize(
    "forms", [("generator", "plain"), ("rounds", "continuous"), ("coroutine", "async generator")], ids=" ".join
)
async def test_a_stream_is_tried_again_only_if_it_had_no_item(
    tmp_path: Path, subtests: pytest.Subtests, forms: tuple[str, str]
) -> None:
    cases = {f"{form}, {name}": case for form in forms for name, case in make_cases(tmp_path, form).items()}
    async with contextlib.AsyncExitStack() as stack:
        for form in forms:
            mine = [case for name, case in cases.items() if name.startswith(f"{form},")]
            alone = {"batch_size": 1} if form == "rounds" else {}
            flow = await stack.enter_async_context(running(prompt_flow(form, nprocs=len(mine), **alone)))
            for case in mine:
                case.flow = flow
        await asyncio.gather(*[case.run() for case in cases.values()])
        for name, case in cases.items():
            with subtests.test(case=name):
                case.check()
        for flow in {case.flow for case in cases.values()}:
            assert flow.statistics().steps[0].retries == 2
            await complete(flow, flow.statistics().steps[0].nprocs)


async def test_a_worker_that_was_stopped_while_it_was_idle_is_a_hang() -> None:
    async def stop_and_process(form: str) -> None:
        async with running(prompt_flow(form)) as flow:
            (pid,) = pids(flow)
            assert (await flow.process(Job(count=1))).total == 1
            await strike(pid, signal.SIGSTOP)
            assert (await flow.process(Job(count=3), 60)).total == 3
            assert pid not in pids(flow)

    await asyncio.gather(*map(stop_and_process, FORMS))


async def test_a_worker_that_is_paused_or_idle_is_no_hang() -> None:
    async def pause(form: str) -> None:
        async with running(prompt_flow(form)) as flow:
            before = pids(flow)
            stream = flow.stream(Job(count=0 if form == "coroutine" else 1000), 60)  # the `emit` of one does not wait
            items: list[int] = []
            if form != "coroutine":
                items.append(await anext(stream))
                await until_paused(stream)
            await asyncio.sleep(1.5 * HANDLE_TIMEOUT)  # what is tested is that nothing happens in a time
            assert await read(stream, items) is None
            assert len(items) in (0, 1000)
            assert (await flow.process(Job(count=3), 60)).total == 3
            await asyncio.sleep(1.5 * HANDLE_TIMEOUT)
            assert (await flow.process(Job(count=3), 60)).total == 3
            assert pids(flow) == before

    await asyncio.gather(*map(pause, FORMS))


@side_by_side
async def test_of_many_in_one_worker_those_without_items_are_tried_again(form: str, tmp_path: Path) -> None:
    """None of them ends before the worker does: they have much to do, or in an event loop they wait."""
    options: dict[str, Any] = {"batch_timeout": 10.0} if form == "rounds" else {}
    gate = Gate(tmp_path)
    held: dict[str, Any] = {"act": "gate", "at": 1, "gate": gate} if form in IN_LOOP else {}
    count = 5 if held else 60_000
    async with running(prompt_flow(form, **options)) as flow:
        streams = [flow.stream(Job(count=ENDLESS, **held), 60) for _ in range(4)]
        jobs = [Job(count=count, **held) for _ in range(4)]
        calls = [asyncio.create_task(outcome(flow.process(job, 60))) for job in jobs]
        assert await asyncio.gather(*map(anext, streams)) == [0] * 4
        assert flow.statistics().in_flight == 8
        (pid,) = pids(flow)
        os.kill(pid, signal.SIGKILL)
        gate.open()
        items: list[list[int]] = [[0] for _ in streams]
        for error in await asyncio.gather(*map(read, streams, items)):
            assert isinstance(error, WorkerDied)
            assert error.pid == pid
        for numbers in items:
            assert numbers == list(range(len(numbers)))
        assert [await call for call in calls] == jobs
        assert [job.total for job in jobs] == [count] * 4
        assert flow.statistics().steps[0].retries == 4


@pytest.mark.parametrize("form", ["plain", "rounds", "coroutine"])
@pytest.mark.parametrize("at", [0, 2])
async def test_a_batch_that_raises_is_run_again_one_by_one_only_if_it_has_sent_nothing(form: str, at: int) -> None:
    step = FlowStep(FORMS[form]().handler, batch_size=2, batch_timeout=10.0)
    async with running(Flow(step, mp_start_method="forkserver")) as flow:
        bad, good = Job(count=3, act="raise", at=at), Job(count=3)
        items: list[list[int]] = [[], []]
        streams = [flow.stream(job, 60) for job in (bad, good)]
        errors = await asyncio.gather(*map(read, streams, items))
        assert isinstance(errors[0], ValueError)
        assert items[0] == list(range(at))
        if at == 0:
            assert (items[1], errors[1]) == ([0, 1, 2], None)
        else:
            assert isinstance(errors[1], ValueError)
            assert items[1] == list(range(len(items[1])))


async def test_a_stream_of_a_stopped_worker_without_handle_timeout_is_late() -> None:
    """As by default. The worker goes on when it can."""
    async with running(Flow(FlowStep(Yielding(handlers.run_for_ever)))) as flow:
        stream = flow.stream(Job(payload=bytes(20_000)), 60, 0.4)
        assert await anext(stream) == 0
        await until_paused(stream)
        (pid,) = pids(flow)
        await strike(pid, signal.SIGSTOP)
        items: list[int] = [0]
        error = await read(stream, items)
        assert isinstance(error, TaskTimeout)
        assert items == list(range(len(items)))
        os.kill(pid, signal.SIGCONT)
        await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight == 0)
        assert pids(flow) == [pid]


async def test_a_pause_of_server_and_worker_is_not_charged_to_coroutines() -> None:
    """As when a container is frozen."""
    async with running(Flow(FlowStep(InLoop(handlers.sleep_in_loop), handle_timeout=1.0))) as flow:
        (pid,) = pids(flow)
        calls = [asyncio.create_task(outcome(flow.process(Job(seconds=0.4), 60))) for _ in range(3)]
        await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight == 3)
        await strike(pid, signal.SIGSTOP)
        time.sleep(1.7)
        os.kill(pid, signal.SIGCONT)
        ends = await asyncio.gather(*calls)
        assert [type(end) for end in ends] == [Job] * 3, ends
        assert pids(flow) == [pid]


# Recycling and stop


@pytest.mark.parametrize("form", ["generator", "continuous", "async generator"])
async def test_a_worn_worker_ends_its_streams_before_it_leaves(form: str) -> None:
    async with running(prompt_flow(form, max_tasks=2)) as flow:
        (worn,) = pids(flow)
        stream = flow.stream(Job(count=2000), 60)
        items = [await anext(stream)]
        await until_paused(stream)
        for _ in range(2):
            await flow.process(Job(count=1), 60)
        await eventually(lambda: pids(flow) not in ([], [worn]))
        (fresh,) = pids(flow)
        assert (await flow.process(Job(count=1), 60)).total == 1
        assert {worker.pid: (worker.state, worker.in_flight) for worker in flow.statistics().steps[0].workers} == {
            worn: ("retiring", 1),
            fresh: ("ready", 0),
        }
        assert await read(stream, items) is None
        assert items == list(range(2000))
        await eventually(lambda: worn not in [worker.pid for worker in flow.statistics().steps[0].workers])
        assert flow.statistics().steps[0].restarts == 0


@pytest.mark.parametrize(
    "step",
    [
        lambda: FlowStep(Yielding(handlers.run_for_ever), concurrency=4),
        lambda: FlowStep(AsyncYielding(handlers.run_for_ever_in_loop)),
    ],
    ids=["generator", "async generator"],
)
async def test_a_stop_closes_the_generators_of_open_streams(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: Any
) -> None:
    path = tmp_path / "notes"
    async with running(Flow(step(), stop_timeout=0.3)) as flow:
        streams = [flow.stream(Job(path=path), 60) for _ in range(2)]
        items = [[await anext(stream)] for stream in streams]
        await until_paused(streams[0])
        fast = asyncio.create_task(read(streams[1], items[1]))
        await asyncio.wait_for(flow.stop(), DEADLINE)
        assert isinstance(await fast, NotRunningError)
        assert isinstance(await read(streams[0], items[0]), NotRunningError)
        for numbers in items:
            assert numbers == list(range(len(numbers)))
        assert notes(path) == ["closed"] * 2
        assert "did not stop" not in caplog.text
