"""A block of shared memory that is being filled from outside."""

from __future__ import annotations

from .arena import Ref
from .ledger import Ledger


class Intake:
    """Takes bytes as they come and turns them into a view that a task can carry.

    Use it as a context manager: what was not finished is freed.

    Args:
        ledger: Who holds which block.
        ref: A block of this process that nobody holds.
    """

    def __init__(self, ledger: Ledger, ref: Ref) -> None:
        self._ledger = ledger
        self._ref = ref
        self._room: memoryview | None = ledger.arena.write(ref)
        self.received = 0

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def room(self) -> int:
        """Bytes that can still be written."""
        return self._ref.size - self.received

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes behind those that came before: the only copy that is made.

        Raises:
            ValueError: There are more than the block can hold; nothing of them was written.
        """
        assert self._room is not None
        end = self.received + len(data)
        if end > self._ref.size:
            raise ValueError(f"{end} bytes do not fit in a block of {self._ref.size}")
        self._room[self.received : end] = data
        self.received = end

    def finish(self) -> memoryview:
        """Return what was received as a read-only view; the block is free again when the last view of it is gone."""
        self._room = None
        arena = self._ledger.arena
        if not self.received:
            arena.free(self._ref.offset)
            return memoryview(b"")
        ref = arena.shrink(self._ref, self.received)
        return arena.mapping.view(arena.lend(ref), 0, ref.size)

    def close(self) -> None:
        """Free the block if it was not finished."""
        if self._room is not None:
            self._room = None
            self._ledger.arena.free(self._ref.offset)
            self._ledger.notify_room()
