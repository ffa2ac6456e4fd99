"""A block of shared memory that is being filled from outside."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple, Self

from ..exceptions import ArenaFull, Overloaded
from .arena import Ref
from .ledger import Ledger

PIECE = 1 << 20
"""Bytes that are moved in one turn of the event loop when a block cannot grow where it is."""


class IntakeCap(NamedTuple):
    """How much may be arriving at the same time.

    Attributes:
        intakes: The most blocks that may be filled at once; None: any number.
        size: The most bytes these blocks may have together; None: half of what the arena may have. A block that
            is alone may have more.
    """

    intakes: int | None = None
    size: int | None = None

    def check(self, ledger: Ledger, more: int, intakes: int = 0) -> None:
        """Refuse what would go beyond.

        Args:
            ledger: Knows what is arriving.
            more: Bytes to be added.
            intakes: Blocks to be added.

        Raises:
            Overloaded: It would be too much.
        """
        if self.intakes is not None and ledger.intakes + intakes > self.intakes:
            raise Overloaded(f"{ledger.intakes} uploads are arriving, and no more than {self.intakes} may at once")
        size = ledger.arena.layout.limit // 2 if self.size is None else self.size
        others = ledger.intakes - (not intakes)
        if others and ledger.receiving + more > size:
            raise Overloaded(
                f"uploads that are still arriving have {ledger.receiving} bytes of shared memory, and no more than "
                f"{size} may be taken by them"
            )


NO_CAP = IntakeCap()
"""Any number of blocks, which have half of the arena."""


class Intake:
    """Takes bytes as they come and turns them into a view that a task can carry.

    Use it as a context manager: what was not finished is freed.

    Args:
        ledger: Who holds which block.
        ref: A block of this process that nobody holds; counted as arriving until it is finished or closed.
        cap: How much may be arriving at the same time.

    Attributes:
        received: Bytes that have come.
    """

    def __init__(self, ledger: Ledger, ref: Ref, cap: IntakeCap) -> None:
        self._ledger = ledger
        self._ref = ref
        self._cap = cap
        self._room: memoryview | None = ledger.arena.write(ref)
        self.received = 0

    @classmethod
    async def open(cls, ledger: Ledger, size: int, timeout: float, cap: IntakeCap) -> Self:
        """Take a block, waiting for room.

        Raises:
            ArenaFull: There was no room in time.
            Overloaded: Too much is arriving already.
        """
        cap.check(ledger, size, intakes=1)
        # Counted from here on, so that those who wait for room cannot go beyond the cap together.
        ledger.intakes += 1
        ledger.receiving += size
        try:
            ref = await ledger.allocate(size, timeout)
        except BaseException:
            ledger.intakes -= 1
            ledger.receiving -= size
            raise
        return cls(ledger, ref, cap)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def room(self) -> int:
        """Bytes that can still be written."""
        return self._ref.size - self.received

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes behind those that came before: the only copy that is made, unless the block must be moved.

        Raises:
            ValueError: There are more than the block can hold; nothing of them was written.
        """
        assert self._room is not None
        end = self.received + len(data)
        if end > self._ref.size:
            raise ValueError(f"{end} bytes do not fit in a block of {self._ref.size}")
        self._room[self.received : end] = data
        self.received = end

    async def grow(self, size: int, timeout: float) -> None:
        """Make the block longer: where it is when the memory behind it is free, else by moving what has come.

        Args:
            size: Bytes the block must have.
            timeout: Seconds to wait for room at most.

        Raises:
            ArenaFull: There was no room in time.
            Overloaded: Too much is arriving already.
        """
        more = size - self._ref.size
        if more <= 0:
            return
        self._cap.check(self._ledger, more)
        arena = self._ledger.arena
        deadline = time.monotonic() + timeout
        while (grown := arena.grow(self._ref, size)) is None:
            try:
                grown = arena.allocate(size)
            except ArenaFull as exc:
                await self._ledger.wait_for_room(exc, deadline)
            else:
                await self._move(grown)
                break
        self._ledger.receiving += more
        self._ref = grown
        self._room = arena.write(grown)

    def finish(self) -> memoryview:
        """Return what was received as a read-only view; the block is free again when the last view of it is gone."""
        if not self.received:
            self.close()
            return memoryview(b"")
        arena = self._ledger.arena
        ref = arena.shrink(self._ref, self.received)
        view = arena.mapping.view(arena.lend(ref), 0, ref.size)
        self._end()
        return view

    def close(self) -> None:
        """Free the block if it was not finished."""
        if self._room is not None:
            self._ledger.arena.free(self._ref.offset)
            self._end()

    async def _move(self, target: Ref) -> None:
        arena = self._ledger.arena
        assert self._room is not None
        room = arena.write(target)
        try:
            for start in range(0, self.received, PIECE):
                end = min(start + PIECE, self.received)
                room[start:end] = self._room[start:end]
                await asyncio.sleep(0)
        except BaseException:
            arena.free(target.offset)
            raise
        arena.free(self._ref.offset)

    def _end(self) -> None:
        self._room = None
        self._ledger.intakes -= 1
        self._ledger.receiving -= self._ref.size
        self._ledger.notify_room()
