"""The bodies that are arriving: what each may keep at once, and the queue of those that wait.

**Who comes first.** The body that is nearest to its end, then those that wait in the order in which they have begun. So
a large one cannot be passed for ever by those that began later, unless these are nearer to their end, and its timeout
bounds that. `Banker` decides whether the first one may have what it waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from ..refusals import Refusals
from .arena import Arena
from .banker import HEAD_START, Account, ArrivalCap, Banker
from .memory_waiters import MemoryWaiters


class Arrival(Account):
    """One body that is arriving. Made by `Arrivals.expect`.

    Use it as a context manager: at the end it counts no longer.

    Args:
        arrivals: All that are arriving.
        left: Bytes that may still come.
        is_exact: Whether exactly that many will come; else no more will.
        wait_timeout: Seconds that it may wait for memory, all in all.
        cap: The limit on what may be arriving at the same time.

    Attributes:
        wait_left: Seconds that it may still wait.
    """

    def __init__(self, arrivals: Arrivals, left: int, is_exact: bool, wait_timeout: float, cap: ArrivalCap) -> None:
        super().__init__(left, is_exact)
        self.wait_left = wait_timeout
        self._arrivals = arrivals
        self._cap = cap

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def try_acquire(self, size: int, claim: Callable[[], bool] = lambda: True) -> bool:
        """Count bytes that have come, if they may be kept at once.

        Args:
            size: Number of bytes.
            claim: Allocates the memory for them; returns whether it was there.

        Returns:
            Whether they were counted; else use `acquire`.

        Raises:
            Overloaded: These are its first bytes, and too many bodies are arriving.
        """
        arrivals, cap = self._arrivals, self._cap
        if not self.number:
            arrivals._banker.begin(self, cap)
        if arrivals._waiting and not arrivals._may_pass(self, cap):
            return False
        return arrivals._banker.grant(self, size, cap, claim)

    async def acquire(self, size: int, claim: Callable[[], bool] = lambda: True) -> None:
        """Count bytes that have come, as soon as they may be kept. The client must not be read meanwhile.

        After a cancellation the body can only be closed.

        Args:
            size: Number of bytes.
            claim: As for `try_acquire`.

        Raises:
            ArenaFull: There was no memory in time.
            Overloaded: The bodies that are arriving had too much for too long.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            await self._arrivals.acquire(self, size, self._cap, claim)
        finally:
            self.wait_left = max(0.0, self.wait_left - (loop.time() - begun))

    def on_abandon(self, end: Callable[[Exception], object] | None) -> None:
        """Set the function that is called with an error if the flow stops before the body is closed."""
        self._arrivals.on_abandon(self, end)

    def close(self) -> None:
        """Stop counting the body and return what it holds."""
        self._arrivals.close(self)


class _Request(NamedTuple):
    arrival: Arrival
    size: int
    cap: ArrivalCap
    claim: Callable[[], bool]
    granted: asyncio.Future[None]

    @property
    def queue(self) -> tuple[bool, ArrivalCap]:
        """What it may lack: where one request waits, those behind it with the same need wait as well."""
        return self.arrival.in_arena, self.cap


class Arrivals:
    """All bodies that are arriving for one flow.

    Args:
        arena: The shared memory.
        waiters: The callers that wait for memory.
        refusals: Counts the bodies that are refused.
        head_start: Seconds after its first byte in which a body may have the rest to itself.
    """

    def __init__(
        self, arena: Arena, waiters: MemoryWaiters, refusals: Refusals, head_start: float = HEAD_START
    ) -> None:
        self._arena = arena
        self._waiters = waiters
        self._banker = Banker(arena, waiters, refusals, head_start)
        self._refusals = refusals
        self._waiting: dict[Arrival, _Request] = {}
        self._ends: dict[Arrival, Callable[[Exception], object]] = {}

    def __len__(self) -> int:
        return len(self._banker)

    @property
    def held(self) -> int:
        """Bytes that the bodies hold."""
        return self._banker.held

    def expect(self, size: int | None, most: int, wait_timeout: float, cap: ArrivalCap) -> Arrival:
        """Expect a body; it counts from its first byte on.

        Args:
            size: Bytes that it will have; None if that is not known.
            most: Bytes that it may have in that case.
            wait_timeout: Seconds that it may wait for memory, all in all.
            cap: The limit on what may be arriving at the same time.

        Raises:
            Overloaded: Too many bodies are arriving.
        """
        self._banker.check_count(cap)
        return Arrival(self, most if size is None else size, size is not None, wait_timeout, cap)

    async def acquire(self, arrival: Arrival, size: int, cap: ArrivalCap, claim: Callable[[], bool]) -> None:
        """Count bytes that have come, as soon as they may be kept; see `Arrival.acquire`."""
        if not arrival.number:
            self._banker.begin(arrival, cap)
        loop = asyncio.get_running_loop()
        granted = loop.create_future()
        self._waiting[arrival] = _Request(arrival, size, cap, claim, granted)
        head_start = None if arrival.held else loop.call_later(self._banker.head_start, self.settle)
        try:
            with self._waiters.watch(self.settle):
                if self._banker.is_short(arrival, cap):
                    self._arena.collect_garbage()
                    self._waiters.on_shortage()
                self.settle()
                await asyncio.wait([granted], timeout=arrival.wait_left)
        finally:
            self._waiting.pop(arrival, None)
            if head_start is not None:
                head_start.cancel()
        if not granted.done():
            raise self._refusals.count(self._banker.refusal(arrival, size, cap))

    def settle(self) -> None:
        """Grant what can be granted to the bodies that wait, after memory was returned."""
        while self._waiting and self._grant_one():
            pass

    def on_abandon(self, arrival: Arrival, end: Callable[[Exception], object] | None) -> None:
        """Set the function that ends a body if the flow stops; see `Arrival.on_abandon`."""
        if end is None:
            self._ends.pop(arrival, None)
        else:
            self._ends[arrival] = end

    def abandon(self, error: Callable[[], Exception]) -> None:
        """End all bodies: there will be no flow for their tasks.

        Args:
            error: Makes the error for each.
        """
        ends, self._ends = self._ends, {}
        for end in ends.values():
            end(error())

    def close(self, arrival: Arrival) -> None:
        """Stop counting a body and return what it holds."""
        self._ends.pop(arrival, None)
        if self._banker.end(arrival):
            self.settle()

    def _grant_one(self) -> bool:
        nearest = min(self._waiting.values(), key=lambda request: (request.arrival.missing, request.arrival.number))
        full = set()
        for request in [nearest, *sorted(self._waiting.values(), key=lambda request: request.arrival.number)]:
            if request.queue in full:
                continue
            if self._banker.grant(*request[:4]):
                del self._waiting[request.arrival]
                request.granted.set_result(None)
                return True
            if request is not nearest:
                full.add(request.queue)
        return False

    def _may_pass(self, arrival: Arrival, cap: ArrivalCap) -> bool:
        # The cheapest question first: nearly always those that wait have begun later.
        number, missing, queue = arrival.number, arrival.missing, (arrival.in_arena, cap)
        return all(
            number < other.number or missing <= other.missing or request.queue != queue
            for other, request in self._waiting.items()
        )
