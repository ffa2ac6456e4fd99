"""Who of the bodies that are arriving may take more memory, and who waits.

Nothing is reserved on the word of a client: a body counts from its first byte on, with what has come of it. So bodies
that arrive together may need more than there is, and if each took what it can get, all might hold a part and wait for
the rest, for ever. This is the situation of Dijkstra's banker ("Cooperating sequential processes", 1965), and it is met
in his way. A body gets more only if there is an order in which all that have begun can still be completed, each with
what is free and what those before it return. With one kind of resource it is enough to try one order: by what is
missing, the least first. So the body that is nearest to its end always finds as much as it still needs; the others are
not read meanwhile.

**Why all end.** Two things can be short: the share of the memory that arriving bodies may have (`ArrivalCap.size`), and
memory itself, which tasks hold as well. The share is returned when a body is complete or its client gives up, so by
the order above it never runs out for good. Memory is returned when tasks end. They do not wait for bodies for long:
what a task of this process waits for is left free by all but the nearest, and a worker gives up after a second. A block
that must move needs no memory for it (`Arena.move`). What is left is bounded by time:
a client that stops sending is refused by its
pace, and one that waits for memory by its patience.

**Who comes first.** The body that is nearest to its end, then those that wait in the order in which they have begun. So
a large one cannot be passed for ever by those that began later, unless these are nearer to their end, and its patience
bounds that.

**Bodies of unknown length** (chunked or compressed) may need anything up to the most that the endpoint takes. To keep
that free for each would serve them one by one, so what is missing is guessed: as much again as has come. Where that
is too low for several at once they may wait for each other until the patience of one ends. Bodies that say how long
they are do not suffer by it: while they wait, those of unknown length wait behind them or return what they hold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from operator import itemgetter
from types import TracebackType
from typing import NamedTuple, Self

from ...exceptions import Overloaded
from .arena import Arena
from .memory_waiters import MemoryWaiters

GUESS = 256 << 10
"""Bytes that a body of unknown length may still have, at least, as far as one can guess."""

HEAD_START = 0.5
"""Seconds after its first byte in which a body may have the rest to itself."""

TRUST = 256
"""How many times what has come so far may be the rest that others leave to a body in that time."""


class ArrivalCap(NamedTuple):
    """How much may be arriving at the same time.

    Attributes:
        intakes: The most bodies that may have begun and not ended; None: any number.
        size: The most bytes that these may have together; None: half of what the arena may have. The body that is
            nearest to its end may have more.
    """

    intakes: int | None = None
    size: int | None = None


NO_CAP = ArrivalCap()
"""Any number of bodies, which have half of the arena."""


class Arrival:
    """One body that is arriving: what it holds, and what may still come. Made by `Arrivals.expect`.

    Use it as a context manager: at the end it counts no longer.

    Args:
        arrivals: All that are arriving.
        left: Bytes that may still come.
        is_exact: Whether so many will come; else no more will.
        patience: Seconds that it may wait for memory, all in all.
        cap: How much may be arriving at the same time.

    Attributes:
        held: Bytes that have come and are kept.
        left: Bytes that may still come.
        patience: Seconds that it may still wait.
        in_arena: Whether they go to shared memory.
        number: Tells which has come first; 0 before its first byte.
        since: When its first byte came, and when that was taken, on the clock of ``time.monotonic``.
    """

    def __init__(self, arrivals: Arrivals, left: int, is_exact: bool, patience: float, cap: ArrivalCap) -> None:
        self.held = 0
        self.left = left
        self.in_arena = False
        self.number = 0
        self.since = 0.0
        self._arrivals = arrivals
        self._is_exact = is_exact
        self.patience = patience
        self._cap = cap

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def missing(self) -> int:
        """Bytes that are still to come, as far as one can know."""
        return self.left if self._is_exact else min(self.left, max(self.held, GUESS))

    def take(self, size: int, claim: Callable[[], bool] = lambda: True) -> bool:
        """Count bytes that have come, if they may be kept at once.

        Args:
            size: How many.
            claim: Takes the memory for them, and tells whether it was there.

        Returns:
            Whether they were counted; else they may be waited for.

        Raises:
            Overloaded: It is the first of them, and too many bodies are arriving.
        """
        return self._arrivals.take(self, size, self._cap, claim)

    async def wait(self, size: int, claim: Callable[[], bool] = lambda: True) -> None:
        """Count bytes that have come, as soon as they may be kept. The client must not be read meanwhile.

        Args:
            size: How many.
            claim: As for `take`.

        Raises:
            ArenaFull: There was no memory in time.
            Overloaded: Those that are arriving had too much for too long.

        After a cancellation the body can only be closed.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            await self._arrivals.wait(self, size, self._cap, claim, self.patience)
        finally:
            self.patience = max(0.0, self.patience - (loop.time() - begun))

    def on_abandon(self, end: Callable[[Exception], object] | None) -> None:
        """Have a function called with an error when the flow stops before the body is closed; None: no function."""
        self._arrivals.tell(self, end)

    def close(self) -> None:
        """Count it no longer."""
        self.on_abandon(None)
        self._arrivals.end(self)


class _Request(NamedTuple):
    arrival: Arrival
    size: int
    cap: ArrivalCap
    claim: Callable[[], bool]
    turn: asyncio.Future[None]

    @property
    def queue(self) -> tuple[bool, ArrivalCap]:
        """What can be short for it: where one waits, those behind it wait as well."""
        return self.arrival.in_arena, self.cap


class Arrivals:
    """All bodies that are arriving for one flow.

    Args:
        arena: The shared memory.
        waiters: The callers that wait for memory: what they need is left to them.
        head_start: Seconds after its first byte in which a body may have the rest to itself.

    Attributes:
        held: Bytes that they have.
    """

    def __init__(
        self,
        arena: Arena,
        waiters: MemoryWaiters,
        head_start: float = HEAD_START,
    ) -> None:
        self.held = 0
        self._arena = arena
        self._waiters = waiters
        self._head_start = head_start
        self._begun: set[Arrival] = set()
        self._waiting: dict[Arrival, _Request] = {}
        self._ends: dict[Arrival, Callable[[Exception], object]] = {}
        self._last_number = 0
        self._most_left = 0

    def __len__(self) -> int:
        return len(self._begun)

    def expect(self, size: int | None, most: int, patience: float, cap: ArrivalCap) -> Arrival:
        """Expect a body; it counts from its first byte on.

        Args:
            size: Bytes that it will have; None when that is not known.
            most: Bytes that it may have in that case.
            patience: Seconds that it may wait for memory, all in all.
            cap: How much may be arriving at the same time.

        Raises:
            Overloaded: Too many bodies are arriving.
        """
        self._check_number(cap)
        return Arrival(self, most if size is None else size, size is not None, patience, cap)

    def take(self, arrival: Arrival, size: int, cap: ArrivalCap, claim: Callable[[], bool]) -> bool:
        """Do what `Arrival.take` does."""
        if not arrival.number:
            self._begin(arrival, cap)
        if self._waiting and not self._may_pass(arrival, cap):
            return False
        return self._give(arrival, size, cap, claim)

    async def wait(
        self, arrival: Arrival, size: int, cap: ArrivalCap, claim: Callable[[], bool], patience: float
    ) -> None:
        """Do what `Arrival.wait` does."""
        if not arrival.number:
            self._begin(arrival, cap)
        turn = asyncio.get_running_loop().create_future()
        self._waiting[arrival] = _Request(arrival, size, cap, claim, turn)
        head_start = None if arrival.held else asyncio.get_running_loop().call_later(self._head_start, self.settle)
        try:
            with self._waiters.watch(self.settle):
                if arrival.in_arena and self._memory() < self._share(cap) - self.held:
                    self._arena.collect_garbage()
                    self._waiters.on_shortage()
                self.settle()
                await asyncio.wait([turn], timeout=patience)
        finally:
            self._waiting.pop(arrival, None)
            if head_start is not None:
                head_start.cancel()
        if not turn.done():
            raise self._refusal(arrival, size, cap)

    def settle(self) -> None:
        """Serve those that wait, after something has been returned."""
        while self._waiting and self._serve_one():
            pass

    def _serve_one(self) -> bool:
        nearest = min(self._waiting.values(), key=lambda request: (request.arrival.missing, request.arrival.number))
        full = set()
        for request in [nearest, *sorted(self._waiting.values(), key=lambda request: request.arrival.number)]:
            if request.queue in full:
                continue
            if self._give(*request[:4]):
                del self._waiting[request.arrival]
                request.turn.set_result(None)
                return True
            if request is not nearest:
                full.add(request.queue)
        return False

    def tell(self, arrival: Arrival, end: Callable[[Exception], object] | None) -> None:
        """Do what `Arrival.on_abandon` does."""
        if end is None:
            self._ends.pop(arrival, None)
        else:
            self._ends[arrival] = end

    def abandon(self, error: Callable[[], Exception]) -> None:
        """End all bodies with errors, made by a function: there will be no flow for their tasks."""
        ends, self._ends = self._ends, {}
        for end in ends.values():
            end(error())

    def end(self, arrival: Arrival) -> None:
        """Do what `Arrival.close` does."""
        if arrival in self._begun:
            self._begun.remove(arrival)
            self.held -= arrival.held
            if not self._begun:
                self._most_left = 0
            self.settle()

    def _begin(self, arrival: Arrival, cap: ArrivalCap) -> None:
        self._check_number(cap)
        self._last_number += 1
        arrival.number = self._last_number
        arrival.since = time.monotonic()
        self._begun.add(arrival)
        self._most_left = max(self._most_left, arrival.left)

    def _check_number(self, cap: ArrivalCap) -> None:
        if cap.intakes is not None and len(self._begun) >= cap.intakes:
            raise Overloaded(f"{len(self._begun)} uploads are arriving, and no more than {cap.intakes} may at once")

    def _may_pass(self, arrival: Arrival, cap: ArrivalCap) -> bool:
        # The cheapest question first: nearly always those that wait have begun later.
        number, missing, queue = arrival.number, arrival.missing, (arrival.in_arena, cap)
        return all(
            number < other.number or missing <= other.missing or request.queue != queue
            for other, request in self._waiting.items()
        )

    def _give(self, arrival: Arrival, size: int, cap: ArrivalCap, claim: Callable[[], bool]) -> bool:
        share = self._share(cap) - self.held - size
        memory = self._memory() - size
        free = min(share, memory) if arrival.in_arena else share
        if not arrival.held and not self._may_begin(arrival, size, free):
            return False
        # Cheap, and nearly always enough: whichever of them is completed first, there is enough for it.
        if free < self._most_left and not self._is_safe(arrival, size, cap):
            return False
        if not claim():
            return False
        if not arrival.held:
            arrival.since = time.monotonic()
        self._count(arrival, size)
        return True

    def _may_begin(self, arrival: Arrival, size: int, free: int) -> bool:
        """Tell whether a body is in the way of none that has just begun, or has waited long enough for them."""
        if len(self._begun) * self._most_left <= free:
            return True
        earliest = time.monotonic() - self._head_start
        if arrival.since <= earliest:
            return True
        recent = [other for other in self._begun if other.held and other.since > earliest]
        expected = sum(min(other.missing, TRUST * other.held) for other in recent)
        # Whoever cannot have all at once in any case waits no longer than one that takes half.
        return not recent or expected + min(arrival.missing - size, TRUST * size, free // 2) <= free

    def _count(self, arrival: Arrival, size: int) -> None:
        self.held += size
        arrival.held += size
        arrival.left -= size

    def _is_safe(self, arrival: Arrival, size: int, cap: ArrivalCap) -> bool:
        """Tell whether all that have begun can be completed when one has got so many bytes more."""
        missing = {other: other.missing for other in self._begun}
        is_nearest = missing[arrival] <= min(missing.values())
        # The share is for those that go on; the one that is to be completed next may have all of itself beside it.
        largest = max(other.held + rest for other, rest in missing.items())
        end = min(self._share(cap) + largest, self._arena.layout.limit) - self.held - size
        if is_nearest:
            return end >= 0 and (not arrival.in_arena or size <= self._arena.available())
        if self.held + size > self._share(cap):
            return False
        self._count(arrival, size)
        missing[arrival] = arrival.missing
        try:
            return self._leaves_memory(arrival, size, missing) and _can_all_end(missing, end)
        finally:
            self._count(arrival, -size)

    def _leaves_memory(self, arrival: Arrival, size: int, missing: dict[Arrival, int]) -> bool:
        nearest = min((rest for other, rest in missing.items() if other.in_arena), default=0)
        return not arrival.in_arena or self._memory() - size >= nearest

    def _share(self, cap: ArrivalCap) -> int:
        return self._arena.layout.limit // 2 if cap.size is None else cap.size

    def _memory(self) -> int:
        return self._arena.available() - self._waiters.wanted

    def _refusal(self, arrival: Arrival, size: int, cap: ArrivalCap) -> Overloaded:
        if arrival.in_arena and self._memory() < size:
            return self._arena.full(size)
        return Overloaded(
            f"uploads that are still arriving have {self.held} bytes, and no more than {self._share(cap)} may be taken "
            "by them: raise max_pending_bytes, or memory_limit of the flow"
        )


def _can_all_end(missing: dict[Arrival, int], left: int) -> bool:
    for arrival, rest in sorted(missing.items(), key=itemgetter(1)):
        if rest > left:
            return False
        left += arrival.held
    return True
