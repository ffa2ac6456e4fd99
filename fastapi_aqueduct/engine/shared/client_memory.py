"""The shared memory of a flow in an API process whose pipeline is another process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from ..memory.arena import Arena
from ..memory.arrivals import Arrivals
from ..memory.layout import Layout, Ref
from ..memory.mapping import Mapping as SharedMapping
from ..memory.memory_waiters import MemoryWaiters
from ..refusals import Refusals
from ..wire.frames import ProtocolError


class ClientMemory:
    """What an API process allocates in its region, and the blocks that the pipeline process has lent it.

    * A sent block lies in this region: the pipeline process decides when it is free, since workers look at it.
    * A lent block lies in any region, and came with a result or an item. It is returned when nothing here needs it any
      more: it came with nothing that waits to be decoded, and has no view.

    Args:
        mapping: The shared memory.
        layout: The division of the shared memory.
        region: The region of this process.
        blocks: Blocks that an earlier owner of the region has sent, and that are in use: size by offset.
        refusals: Counts what the flow refuses.
        on_returned: Called when there are blocks for `pop_returned`.

    Attributes:
        arena: The memory as this process uses it.
        waiters: The callers that wait for memory.
        arrivals: The bodies that are arriving.
        refusals: As given.
    """

    def __init__(
        self,
        mapping: SharedMapping,
        layout: Layout,
        region: int,
        blocks: Mapping[int, int],
        refusals: Refusals,
        on_returned: Callable[[], None],
    ) -> None:
        self.refusals = refusals
        self.arena = Arena(mapping, layout, region, self._on_view_end)
        self.arena.adopt(dict(blocks))
        self.waiters = MemoryWaiters(self.arena, refusals)
        self.arrivals = Arrivals(self.arena, self.waiters, refusals)
        self._on_returned = on_returned
        self._sent: Counter[int] = Counter(iter(blocks))  # once each
        self._lent: Counter[int] = Counter()
        self._lent_sizes: dict[int, int] = {}
        self._undecoded: Counter[int] = Counter()
        self._returned: list[int] = []

    def send(self, refs: Iterable[Ref]) -> None:
        """Note the blocks of a task that is sent."""
        for ref in refs:
            if self.arena.owns(ref.offset):
                self._sent[ref.offset] += 1

    def release(self, counts: Iterable[tuple[int, int]]) -> None:
        """Free blocks of this region that the pipeline process has released.

        Args:
            counts: Offset and count of each: a block that was sent again meanwhile is still in use.

        Raises:
            ProtocolError: A block was not sent as often.
        """
        for offset, count in counts:
            left = self._sent[offset] - count
            if left < 0 or not count:
                raise ProtocolError(f"block {offset} is released and was not sent")
            if left:
                self._sent[offset] = left
                continue
            del self._sent[offset]
            if offset not in self.arena.leases:
                self.arena.free(offset)
        self.waiters.notify_freed()

    def accept(self, refs: Iterable[Ref]) -> None:
        """Note the blocks of a result or an item that has come; `drop` follows when it is decoded, or not needed.

        Raises:
            ProtocolError: There is no such block: a view of it would read beyond the memory.
        """
        for ref in refs:
            if not self.arena.layout.has_block(ref.offset, ref.size):
                raise ProtocolError(f"there is no block of {ref.size} bytes at {ref.offset}")
            self._lent[ref.offset] += 1
            self._lent_sizes[ref.offset] = ref.size
            self._undecoded[ref.offset] += 1

    def drop(self, refs: Iterable[Ref]) -> None:
        """Note that a result or an item is decoded, or not needed. Blocks with views stay until the last has ended."""
        for ref in refs:
            offset = ref.offset
            if self._undecoded[offset] > 1:
                self._undecoded[offset] -= 1
                continue
            self._undecoded.pop(offset, None)
            if offset not in self.arena.leases:
                self._return(offset)

    def pop_returned(self) -> list[int]:
        """Remove and return what is to be returned to the pipeline process: offset and count of each block."""
        returned, self._returned = self._returned, []
        return returned

    @property
    def lent(self) -> list[int]:
        """Offsets of the blocks that the pipeline process has lent."""
        return list(self._lent)

    def leased(self) -> int:
        """Return the bytes of blocks with views here. Any thread may ask."""
        return sum(self._size(offset) for offset in list(self.arena.leases))

    def unsent(self) -> list[int]:
        """List the sizes of blocks with views that the pipeline process does not know. Any thread may ask."""
        return [self._size(at) for at in list(self.arena.leases) if at not in self._sent and at not in self._lent]

    def _size(self, offset: int) -> int:
        return self._lent_sizes.get(offset) or self.arena.allocator.blocks.get(offset, 0)

    def _on_view_end(self, offset: int) -> None:
        if offset in self._lent:
            if offset not in self._undecoded:
                self._return(offset)
        elif offset not in self._sent and self.arena.owns(offset):
            self.arena.free(offset)
            self.waiters.notify_freed()

    def _return(self, offset: int) -> None:
        self._returned += [offset, self._lent.pop(offset)]
        del self._lent_sizes[offset]
        self._on_returned()
