"""Cycles of an application that hold shared memory: collected before a task is refused for want of it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from fastapi_aqueduct import ArenaFull, FlowStep
from fastapi_aqueduct.engine.memory.garbage import GarbageCollection
from fastapi_aqueduct.engine.timing import DEFAULT_TIMING

from .. import handlers
from ..handlers import Each, Job, Whole
from ..support import eventually, forked, outcome, running

MIB = 1 << 20


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Cycle:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


class Cycles:
    """Cycles that are garbage."""

    def __init__(self) -> None:
        self._all: list[weakref.ref[Cycle]] = []
        self.looks = 0

    def make(self) -> None:
        self._all.append(weakref.ref(Cycle()))

    def count(self) -> int:
        self.looks += 1
        return sum(cycle() is not None for cycle in self._all)


@pytest.mark.usefixtures("no_collector")
def test_a_collection_that_frees_nothing_puts_off_the_next() -> None:
    clock, cycles = Clock(), Cycles()
    garbage = GarbageCollection(clock)
    for _ in range(3):
        cycles.make()
        assert garbage.run(cycles.count)
        assert cycles.count() == 0
    for wait in (2, 4, 8, 16, 32, 60, 60):
        assert not garbage.run(cycles.count)
        cycles.make()
        clock.now += wait - 0.001
        looks = cycles.looks
        assert not garbage.run(cycles.count)
        assert cycles.looks == looks  # none was begun
        gc.collect()
        clock.now += 0.001
    cycles.make()
    assert garbage.run(cycles.count)
    assert not garbage.run(cycles.count)
    clock.now += 2
    cycles.make()
    assert garbage.run(cycles.count)


@pytest.mark.usefixtures("no_collector")
async def test_cycles_of_the_application_are_collected_before_a_task_is_refused() -> None:
    """They hold results, which lie in the region of the worker."""
    async with running(forked(Each(handlers.make_large), memory_limit=16 * MIB)) as flow:
        for number in range(40):
            task = await flow.process(Job(number=number, size=MIB), 20)
            assert task.image[0] == number
            handlers.keep_in_cycle(task)
        del task


@pytest.mark.usefixtures("no_collector")
async def test_cycles_of_a_handler_are_collected_before_a_task_is_refused() -> None:
    flow = forked(Each(handlers.switch_collector_off, handlers.keep_in_cycle), memory_limit=16 * MIB)
    async with flow:
        for number in range(40):
            await flow.process(Job(number=number, image=np.zeros(MIB, np.uint8)), 20)
        assert 0 < flow.statistics().arena.retained < 16 * MIB
        await flow.process(Job(number=0, image=np.zeros(14 * MIB, np.uint8)), 20)


@pytest.mark.usefixtures("no_collector")
async def test_tasks_that_fail_in_a_batch_that_runs_again_leave_no_cycles() -> None:
    """In the batch and alone."""
    flow = forked(FlowStep(Whole(handlers.fail_or_raise), batch_size=2, batch_timeout=0.5))
    async with flow:
        jobs = [Job(image=np.zeros(100_000, np.uint8), fails=fails) for fails in (True, False)]
        ends = await asyncio.gather(*[outcome(flow.process(job)) for job in jobs])
        assert [type(end) for end in ends] == [ValueError, KeyError]
        del jobs, ends
        # Sooner than memory that lies idle is given back, for which workers collect garbage.
        await eventually(lambda: flow.statistics().arena.blocks == 0, DEFAULT_TIMING.idle_time / 2)


@pytest.mark.usefixtures("no_collector")
async def test_what_is_in_use_is_refused_as_ever() -> None:
    async with running(forked(Each(handlers.make_large), memory_limit=4 * MIB)) as flow:
        kept = [await flow.process(Job(number=1, size=MIB)) for _ in range(3)]
        with pytest.raises(ArenaFull):
            await flow.process(Job(number=2, size=10, image=np.zeros(3 * MIB, np.uint8)), 0.1)
        assert all((job.image == 1).all() for job in kept)
        kept.clear()
