"""Bodies that arrive together, against the promise that all of them can be completed."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from fastapi_aqueduct import ArenaFull, Overloaded
from fastapi_aqueduct.engine.memory.arena import Arena
from fastapi_aqueduct.engine.memory.arrivals import Arrival, Arrivals
from fastapi_aqueduct.engine.memory.banker import HEAD_START, ArrivalCap
from fastapi_aqueduct.engine.memory.layout import Layout, Ref
from fastapi_aqueduct.engine.memory.mapping import PAGE, Mapping, create_memory
from fastapi_aqueduct.engine.memory.memory_waiters import MemoryWaiters
from fastapi_aqueduct.engine.refusals import Refusals

LIMIT = 64 * PAGE
CAP = ArrivalCap(size=32 * PAGE)


def make_arena(limit: int = LIMIT) -> Arena:
    layout = Layout(1, limit)
    fd = create_memory("test", layout.size)
    try:
        return Arena(Mapping(fd, layout.size), layout, 0, lambda offset: None)
    finally:
        os.close(fd)


def make_arrivals(arena: Arena, head_start: float = HEAD_START) -> Arrivals:
    return Arrivals(arena, MemoryWaiters(arena, Refusals()), Refusals(), head_start)


@dataclass(eq=False)
class Body:
    """A body, its block, and how far that is filled."""

    arrival: Arrival
    ref: Ref
    arena: Arena
    filled: int = 0

    def try_acquire(self, size: int) -> bool:
        taken = self.arrival.try_acquire(size, lambda: self.arena.fill(self.ref, self.filled + size))
        self.filled += size * taken
        return taken

    def end(self) -> None:
        self.arena.free(self.ref.offset)
        self.arrival.close()


def place(arrivals: Arrivals, arena: Arena, size: int) -> Body:
    """Expect a body that goes to shared memory."""
    ref = arena.place(size)
    assert ref is not None, "announced bytes must cost nothing"
    arrival = arrivals.expect(size, 0, 1.0, CAP)
    arrival.in_arena = True
    return Body(arrival, ref, arena)


class Arriving(RuleBasedStateMachine):
    """Whatever is granted in whatever order, all that have begun can be completed, the nearest to its end first."""

    bodies = Bundle("bodies")
    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.arena = make_arena()
        self.arrivals = make_arrivals(self.arena, head_start=0)
        self.live: list[Body] = []
        self.held: list[int] = []

    @precondition(lambda self: len(self.live) < 5)
    @rule(target=bodies, pages=st.integers(1, 60))
    def expect(self, pages: int) -> Body:
        self.live.append(place(self.arrivals, self.arena, pages * PAGE))
        return self.live[-1]

    @rule(body=bodies, pages=st.integers(1, 20))
    def send(self, body: Body, pages: int) -> None:
        if body in self.live:
            body.try_acquire(min(pages * PAGE, body.arrival.left))

    @rule(body=consumes(bodies))
    def leave(self, body: Body) -> None:
        if body in self.live:
            self.live.remove(body)
            body.end()

    @rule(target=tasks, pages=st.integers(1, 20))
    def begin_task(self, pages: int) -> int:
        """A task takes whatever memory there is."""
        try:
            offset = self.arena.allocate(pages * PAGE).offset
        except ArenaFull:
            return -1
        self.held.append(offset)
        return offset

    @rule(offset=consumes(tasks))
    def end_task(self, offset: int) -> None:
        if offset in self.held:
            self.held.remove(offset)
            self.arena.free(offset)

    @invariant()
    def accounts_are_right(self) -> None:
        assert self.arrivals.held == sum(body.filled for body in self.live)
        assert self.arena.status.usage() <= LIMIT
        assert self.arena.available() == LIMIT - self.arena.allocator.used

    def teardown(self) -> None:
        for offset in self.held:
            self.arena.free(offset)
        while self.live:
            body = min(self.live, key=lambda body: body.arrival.missing)
            if body.arrival.left:
                assert body.try_acquire(body.arrival.left), "nearest to its end, and there is no room for it"
            self.live.remove(body)
            body.end()
        assert (self.arrivals.held, len(self.arrivals), self.arena.allocator.used) == (0, 0, 0)


TestArriving = Arriving.TestCase
TestArriving.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def begin(arrivals: Arrivals, size: int, first: int, cap: ArrivalCap = CAP, wait_timeout: float = 5.0) -> Arrival:
    """Let a body begin; the rest of it is missing."""
    arrival = arrivals.expect(size, 0, wait_timeout, cap)
    assert arrival.try_acquire(first)
    return arrival


def test_the_one_that_is_nearest_to_its_end_gets_what_the_others_leave() -> None:
    arena = make_arena()
    arrivals = make_arrivals(arena, head_start=0)
    arena.allocate(40 * PAGE)
    near, far = (place(arrivals, arena, pages * PAGE) for pages in (10, 30))
    assert near.try_acquire(2 * PAGE)
    assert far.try_acquire(14 * PAGE)
    assert not far.try_acquire(PAGE), "the eight pages that are left are needed by the other"
    assert near.try_acquire(8 * PAGE)


def test_two_that_could_only_be_completed_together_are_not_let_into_each_others_way() -> None:
    """The rule of the nearest alone would give each a half of the memory, and both would wait for ever."""
    arrivals = make_arrivals(make_arena(), head_start=0)
    small = begin(arrivals, 2 * PAGE, PAGE)
    first, second = begin(arrivals, 30 * PAGE, PAGE), begin(arrivals, 30 * PAGE, PAGE)
    granted = [sum(body.try_acquire(PAGE) for _ in range(28)) for body in (first, second)]
    assert small.try_acquire(PAGE)
    small.close()
    assert first.try_acquire(first.left), granted
    first.close()
    assert second.try_acquire(second.left)


def test_a_single_body_may_have_more_than_the_share() -> None:
    arrivals = make_arrivals(make_arena(), head_start=0)
    body = begin(arrivals, 60 * PAGE, PAGE)
    assert body.try_acquire(59 * PAGE)


def test_a_body_that_has_just_begun_has_a_head_start() -> None:
    """Else each of twenty gets a twentieth of the memory, and each of its pages is new."""
    arrivals = make_arrivals(make_arena(), head_start=0.3)
    first = begin(arrivals, 20 * PAGE, PAGE)
    second = arrivals.expect(20 * PAGE, 0, 5.0, CAP)
    assert not second.try_acquire(PAGE)
    third = arrivals.expect(10 * PAGE, 0, 5.0, CAP)
    assert third.try_acquire(PAGE), "beside the first there is room for all of it"
    time.sleep(0.31)  # what the head start of the first takes
    assert second.try_acquire(PAGE)
    del first


def test_a_byte_reserves_nothing() -> None:
    arrivals = make_arrivals(make_arena(1 << 20))
    for _ in range(500):
        begin(arrivals, 1 << 19, 1, ArrivalCap(size=1 << 19))
    for size in (1 << 18, 1 << 19):
        body = begin(arrivals, size, 1 << 16, ArrivalCap(size=1 << 19))
        assert body.try_acquire(size - (1 << 16))
        body.close()


async def test_who_waits_is_served_when_another_ends_or_is_refused_in_time() -> None:
    arrivals = make_arrivals(make_arena(), head_start=0)
    first = begin(arrivals, 31 * PAGE, 31 * PAGE)
    second = begin(arrivals, 31 * PAGE, PAGE)
    waiting = asyncio.create_task(second.acquire(30 * PAGE))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.close()
    await waiting
    third = begin(arrivals, 2 * PAGE, PAGE, wait_timeout=0.05)
    with pytest.raises(Overloaded, match="max_pending_bytes"):
        await third.acquire(PAGE)
    assert third.wait_left == 0
    second.close()
    await third.acquire(PAGE)


async def test_those_that_have_begun_first_are_served_first() -> None:
    arrivals = make_arrivals(make_arena(), head_start=0)
    whole = begin(arrivals, 28 * PAGE, 28 * PAGE)
    begun = [begin(arrivals, 12 * PAGE, PAGE // 2) for _ in range(3)]
    order: list[int] = []

    async def go_on(number: int) -> None:
        await begun[number].acquire(11 * PAGE)
        order.append(number)
        begun[number].close()

    tasks = [asyncio.create_task(go_on(number)) for number in (2, 0, 1)]
    await asyncio.sleep(0)
    whole.close()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


async def test_bodies_on_the_heap_do_not_wait_for_shared_memory() -> None:
    arena = make_arena()
    arrivals = make_arrivals(arena, head_start=0)
    arena.allocate(LIMIT)
    upload = arrivals.expect(10 * PAGE, 0, 0.05, ArrivalCap())
    upload.in_arena = True
    waiting = asyncio.create_task(upload.acquire(PAGE, lambda: False))
    await asyncio.sleep(0)
    assert begin(arrivals, 20 * PAGE, 20 * PAGE, ArrivalCap())
    with pytest.raises(ArenaFull):
        await waiting


def test_the_number_is_limited() -> None:
    arrivals = make_arrivals(make_arena())
    cap = ArrivalCap(bodies=2)
    for _ in range(5):
        arrivals.expect(PAGE, 0, 1.0, cap)  # headers alone
    one, two = begin(arrivals, PAGE, 1, cap), begin(arrivals, PAGE, 1, cap)
    late = arrivals.expect(PAGE, 0, 1.0, ArrivalCap())
    with pytest.raises(Overloaded, match="no more than 2"):
        arrivals.expect(PAGE, 0, 1.0, cap)
    one.close()
    assert late.try_acquire(1)
    late.close()
    assert arrivals.expect(PAGE, 0, 1.0, cap).try_acquire(1)
    two.close()
