"""The state of a pool and the calls of its observer, without a process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fastapi_aqueduct import FlowStep, WorkerDied
from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.timing import DEFAULT_TIMING
from fastapi_aqueduct.engine.wire.channel import make_pair
from fastapi_aqueduct.engine.wire.frames import Kind
from fastapi_aqueduct.engine.workers.handle import WorkerHandle
from fastapi_aqueduct.engine.workers.pool import Pool
from fastapi_aqueduct.engine.workers.slot import Slot
from fastapi_aqueduct.engine.workers.spec import SpecMaker

from ..handlers import Each, tell_pid


class Log:
    """An observer that notes what it receives."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def receive(self, worker: WorkerHandle, kind: Kind, payload: bytes) -> None:
        self.events.append(kind)

    def note_workers(self, index: int) -> None:
        self.events.append(index)

    def remove(self, worker: WorkerHandle, error: WorkerDied) -> bool:
        self.events.append(worker)
        return True


class Bench:
    """A pool for two workers, which are sockets.

    Attributes:
        pool: The pool.
        log: Its observer.
    """

    def __init__(self, undo: ExitStack) -> None:
        (spec,) = SpecMaker("flow", [("step", FlowStep(Each(tell_pid), nprocs=2))]).make_all()
        undo.callback(spec.close)
        self.pool = Pool(spec, range(5, 8))
        self.log = self.pool.observer = Log()
        self._undo = undo

    def launch(self, slot: Slot) -> WorkerHandle:
        """Put a worker into a slot that is being launched."""
        ours, theirs = make_pair()
        self._undo.callback(theirs.close)
        pool = self.pool
        worker = WorkerHandle(pool.spec, pool.free_index(slot), slot.region, ours, lambda _: 0.0, print, print)
        self._undo.callback(worker.close)
        pool.add(slot, worker)
        return worker

    def become_ready(self, worker: WorkerHandle, load: float) -> None:
        """Have a worker become ready after a number of seconds."""
        worker.state = WorkerState.READY
        worker.ready_at = worker.launched_at + load
        self.pool.note_ready(worker)

    def die(self, slot: Slot) -> bool:
        """Remove the worker in a slot."""
        worker, slot.worker = slot.worker, None
        assert worker is not None
        worker.state = WorkerState.DEAD
        return self.pool.remove(worker, WorkerDied("step", 1, -9))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as undo:
        yield Bench(undo)


def test_each_worker_of_a_step_has_a_region_and_one_more_is_for_a_replacement(bench: Bench) -> None:
    assert [slot.region for slot in bench.pool.slots] == [5, 6, 7]
    assert {slot.spec for slot in bench.pool.slots} == {bench.pool.spec}
    assert bench.pool.spec.version == 1


def test_only_free_slots_for_missing_workers_are_vacant(bench: Bench) -> None:
    pool = bench.pool
    first, second, third = pool.slots
    assert pool.vacancies() == [first, second]
    worn = bench.launch(first)
    bench.launch(second)
    assert pool.vacancies() == []
    third.replaces = worn
    bench.launch(third)
    assert pool.missing() == 0
    bench.die(second)
    assert pool.vacancies() == [second]


def test_an_observer_receives_what_happens_to_workers(bench: Bench) -> None:
    first, second, _ = bench.pool.slots
    worker, other = bench.launch(first), bench.launch(second)
    assert bench.log.events == []
    bench.become_ready(worker, 0.5)
    bench.become_ready(other, 0.5)
    assert bench.log.events == [0, 0]
    bench.pool.retire(other)
    assert other.state is WorkerState.RETIRING
    assert bench.log.events == [0, 0, 0]
    assert bench.die(first)
    assert bench.log.events == [0, 0, 0, worker, 0]
    assert bench.pool.workers == [other]
    assert bench.pool.ready_workers() == []


async def test_a_worker_is_expected_a_load_after_the_next_launch(bench: Bench) -> None:
    """The time at which the last worker was expected does not count when that has died early."""
    pool = bench.pool
    first, second, _ = pool.slots
    bench.become_ready(bench.launch(first), 8.0)
    bench.launch(second)
    assert pool.expected_wait(time.monotonic()) == 0.0
    bench.die(first)
    assert pool.expected_wait(time.monotonic()) == pytest.approx(8.0, abs=0.5)
    bench.die(second)
    first.restart = asyncio.get_running_loop().call_later(20.0, print)
    assert pool.expected_wait(time.monotonic()) == pytest.approx(28.0, abs=0.5)
    first.cancel_timers()


async def test_a_step_that_sleeps_is_neither_given_up_nor_expected_later_than_a_load(bench: Bench) -> None:
    """Its time without a ready worker begins when it is woken; a worker that fails then makes it one like any other."""
    pool = bench.pool
    first, _, _ = pool.slots
    limit = DEFAULT_TIMING.give_up_after
    bench.become_ready(bench.launch(first), 8.0)
    pool.resize(0)
    bench.die(first)
    now = time.monotonic()
    assert (pool.is_asleep, pool.missing(), pool.is_given_up(now + 2 * limit)) == (True, 0, False)
    for _ in range(20):
        pool.budget.note_death(now)
    assert not pool.is_broken(now)
    assert pool.expected_wait(now) == pytest.approx(8.0, abs=0.5)
    pool.resize(1)
    assert (pool.is_waking, pool.missing(), pool.is_given_up(now + 2 * limit)) == (True, 1, True)
    assert not pool.is_given_up(time.monotonic() + limit - 1)
    pool.delay_after_failure(first)
    assert (pool.is_waking, pool.is_broken(now)) == (False, True)
