"""Who holds which block, kept by the API process, which owns every task."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ...exceptions import ArenaFull, TaskTooLarge
from ..statistics import ArenaStatistics
from ..wire.frames import ProtocolError
from .arena import Arena
from .arrivals import Arrivals
from .layout import Layout, Ref
from .mapping import Mapping


class Ledger:
    """Counts the holds on every block of the arena and returns the free ones to their owners.

    Tasks, workers that still look at a block, and views in this process are holds alike.

    Args:
        mapping: The shared memory.
        layout: How it is divided; region 0 is this process's.

    Attributes:
        arena: The shared memory as this process uses it.
        arrivals: The bodies that are arriving.
        on_full: Called when a task or a body begins to wait for room.
    """

    def __init__(self, mapping: Mapping, layout: Layout) -> None:
        self.arena = Arena(mapping, layout, 0, self._on_idle)
        self._layout = layout
        self._foreign: list[dict[int, int]] = [{} for _ in range(layout.regions)]
        self._released: list[list[int]] = [[] for _ in range(layout.regions)]
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._watchers = 0
        self.on_full: Callable[[], None] = lambda: None
        self.arrivals = Arrivals(self.arena, self._watch, self._reclaim)

    def hold(self, refs: Iterable[Ref]) -> None:
        """Hold blocks for a task."""
        for ref in refs:
            region = self._layout.region_of(ref.offset)
            if region:
                self._foreign[region][ref.offset] = ref.size
            self.arena.hold(ref.offset)

    def drop(self, refs: Iterable[Ref]) -> None:
        """End a task's holds."""
        for ref in refs:
            self.arena.drop(ref.offset)

    def check(self, refs: Iterable[Ref]) -> None:
        """Refuse blocks that cannot be, as `check_block`."""
        for ref in refs:
            self.check_block(ref.offset, ref.size)

    def check_block(self, offset: int, size: int = 1) -> None:
        """Refuse a block that cannot be.

        Raises:
            ProtocolError: So many bytes do not lie in one region.
        """
        region = self._layout.region_of(offset)
        if not 0 <= region < self._layout.regions or self._layout.region_of(offset + max(size, 1) - 1) != region:
            raise ProtocolError(f"there is no block of {size} bytes at {offset}")

    def discard(self, refs: Iterable[Ref]) -> None:
        """Free the blocks of a task that was encoded and not taken."""
        held = list(refs)
        self.hold(held)
        self.drop(held)

    def take_released(self, region: int) -> list[int]:
        """Take the blocks of a worker's region that are free since the last time, to tell the worker."""
        released = self._released[region]
        if released:
            self._released[region] = []
        return released

    def pass_on(self, region: int) -> dict[int, int]:
        """Tell which blocks of a region are in use, for the next worker that allocates there."""
        self._released[region] = []
        return dict(self._foreign[region])

    async def wait_for_room(self, full: ArenaFull, deadline: float) -> None:
        """Wait until some memory was freed or the deadline, on the clock of ``time.monotonic``, has passed.

        Raises:
            TaskTooLarge: There can never be so much room.
            ArenaFull: The same again: the deadline has passed already.
        """
        if full.size > self._layout.limit:
            raise TaskTooLarge(
                f"a task needs {full.size} bytes of shared memory in one piece, "
                f"and the flow has {self._layout.limit} in all: raise memory_limit of the flow, or make tasks smaller",
                size=full.size,
            ) from full
        if time.monotonic() >= deadline:
            raise full
        self.on_full()
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        # What is returned meanwhile is for this task before it is for bodies that are not there yet.
        self.arrivals.wanted[turn] = full.size
        timer = loop.call_later(deadline - time.monotonic(), _resolve, turn)
        try:
            with self._watch():
                await turn
        finally:
            timer.cancel()
            del self.arrivals.wanted[turn]
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _reclaim(self) -> None:
        self.arena.collect_garbage()
        self.on_full()

    @contextmanager
    def _watch(self) -> Iterator[None]:
        """Look for the ends of views at once: a view may end in any thread, and only who waits must know."""
        loop = asyncio.get_running_loop()
        self._watchers += 1
        self.arena.mapping.wake = lambda: loop.call_soon_threadsafe(self.notify_room)
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self.arena.mapping.wake = None

    def statistics(self, retained: Iterable[int]) -> ArenaStatistics:
        """Return a snapshot. Copies before it counts: it may be asked from another thread.

        Args:
            retained: The blocks that code in workers has kept.
        """
        touched = self.arena.status.usage()
        foreign = sum(sum(list(blocks.values())) for blocks in self._foreign)
        return ArenaStatistics(
            limit=self._layout.limit,
            touched=touched,
            used=sum(map(self._size, list(self.arena.holds))),
            leased=sum(map(self._size, list(self.arena.leases))),
            retained=sum(map(self._size, retained)),
            receiving=self.arrivals.held,
            free=max(0, touched - self.arena.allocator.used - foreign),
            blocks=len(self.arena.holds),
        )

    def _size(self, offset: int) -> int:
        region = self._layout.region_of(offset)
        return self._foreign[region].get(offset, 0) if region else self.arena.allocator.blocks.get(offset, 0)

    def leave(self) -> None:
        """Send those away who wait for room in an event loop that does not drive the flow any more."""
        self.arena.mapping.wake = None
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.get_loop().is_closed():
                _resolve(turn)

    def notify_room(self) -> None:
        """Let those who wait for room try again."""
        self.arena.collect()
        self.arrivals.settle()
        while self._waiting:
            _resolve(self._waiting.popleft())

    def _on_idle(self, offset: int) -> None:
        region = self._layout.region_of(offset)
        if region == 0:
            self.arena.free(offset)
            if self._watchers:
                self.notify_room()
        else:
            self._foreign[region].pop(offset, None)
            self._released[region].append(offset)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
