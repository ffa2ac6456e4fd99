"""Blocks of shared memory that are filled with the bytes of a body."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

from ..wait import awaited
from .arena import Arena
from .arrivals import Arrival
from .layout import Ref
from .memory_waiters import MemoryWaiters

PIECE = 1 << 20
"""Bytes that are moved in one turn of the event loop when a block cannot grow where it is."""


class BlockWriter:
    """Writes a body to shared memory, in one block or several, and returns each as a view that a task can carry.

    A block reserves addresses for all that may come, since they cost nothing, as long as the region has plenty. Where
    many bodies have announced much, a block reserves twice what has come, and moves when it grows.

    Use it as a context manager: what was not finished is freed, and the body counts as arriving until then.

    Args:
        arena: The shared memory.
        waiters: The callers that wait for memory.
        arrival: The body.

    Attributes:
        arrival: The body.
        received: Bytes of the present block that have come.
    """

    def __init__(self, arena: Arena, waiters: MemoryWaiters, arrival: Arrival) -> None:
        self.arrival = arrival
        self.received = 0
        arrival.in_arena = True
        self._arena = arena
        self._waiters = waiters
        self._most = 0
        self._ref: Ref | None = None
        self._space = memoryview(b"")
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def begin(self) -> None:
        """Begin a block; addresses and memory are allocated with its first byte."""
        self._most = self.arrival.left

    def try_write(self, data: bytes | bytearray | memoryview) -> bool:
        """Append bytes to the block, if there is memory: the only copy, unless the block must move.

        Returns:
            Whether they were written; else use `write`.

        Raises:
            Overloaded: These are the first bytes of the body, and too many bodies are arriving.
        """
        end = self._end = self.received + len(data)
        if not self.arrival.try_acquire(len(data), self._claim):
            return False
        self._space[self.received : end] = data
        self.received = end
        return True

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes to the block as soon as there is memory. The client must not be read meanwhile.

        After a cancellation the writer can only be closed.

        Raises:
            ArenaFull: There was no memory in time.
            Overloaded: Too much is arriving, for too long.
        """
        end = self._end = self.received + len(data)
        if self._ref is not None and end > len(self._space) and not self._extend():
            await self._move()
        if not self.try_write(data):
            await self.arrival.acquire(len(data), self._claim)
            self._space[self.received : end] = data
            self.received = end

    def finish(self) -> memoryview:
        """Return the block as a read-only view; it is free again when the last view of it is gone."""
        if self._ref is None:
            return memoryview(b"")
        arena = self._arena
        ref = arena.finish(self._ref, self.received)
        view = arena.mapping.view(arena.lend(ref), 0, ref.size)
        self._forget()
        return view

    def close(self) -> None:
        """Free the block if it was not finished, and end the arrival of the body."""
        if self._ref is not None:
            self._arena.free(self._ref.offset)
            self._forget()
        self.arrival.close()
        self._waiters.notify()

    def _forget(self) -> None:
        self._ref = None
        self._space = memoryview(b"")
        self.received = 0

    def _claim(self) -> bool:
        if self._end > len(self._space) and not self._extend():
            return False
        assert self._ref is not None
        return self._arena.fill(self._ref, self._end)

    def _extend(self) -> bool:
        """Reserve addresses for what comes next; return False if the block must move for that."""
        arena = self._arena
        ref = arena.place(self._target) if self._ref is None else arena.grow(self._ref, self._target)
        if ref is None:
            return False
        self._use(ref)
        return True

    @property
    def _target(self) -> int:
        """The length that the block should have: as long as it can become, while there are plenty of addresses."""
        region = self._arena.allocator
        if region.reserved + self._most <= region.capacity // 2:
            return max(self._most, self._end)
        return max(min(self._most, 2 * self._end), self._end)

    async def _move(self) -> None:
        arena = self._arena
        assert self._ref is not None
        while (target := arena.place(self._target)) is None:
            await awaited(self._waiters.wait(arena.full(self._target), time.monotonic() + self.arrival.wait_left))
        try:
            for start in range(0, self.received, PIECE):
                arena.move(self._ref, target, start, min(start + PIECE, self.received))
                await asyncio.sleep(0)
        except BaseException:
            arena.free(target.offset)
            raise
        arena.free(self._ref.offset)
        self._use(target)

    def _use(self, ref: Ref) -> None:
        self._ref = ref
        self._space = self._arena.write(ref)
