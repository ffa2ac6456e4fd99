"""The holds on the blocks of a whole flow."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from .layout import Layout, Ref


class Ledger:
    """Counts the holds on every block and returns free blocks to the owner of their region.

    Tasks hold blocks, and so do workers whose code still looks at a block. Views in this process keep a block as well.
    A block without holds and views is free.

    Args:
        layout: The division of the shared memory.
        leased: The blocks on which there are views in this process.
        free: Called with the offset of a free block of this process's region, which is number 0.
        on_released: Called when a block of another region is free.

    Attributes:
        listeners: Called, by the number of a region, when a block of it is free. Owners of other regions learn it
            with their next frame.
    """

    def __init__(
        self, layout: Layout, leased: Container[int], free: Callable[[int], None], on_released: Callable[[], None]
    ) -> None:
        self._layout = layout
        self._leased = leased
        self._free = free
        self._on_released = on_released
        self.listeners: dict[int, Callable[[], None]] = {}
        self._holds: dict[int, int] = {}
        self._foreign: list[dict[int, int]] = [{} for _ in range(layout.regions)]
        self._released: list[list[int]] = [[] for _ in range(layout.regions)]

    def hold(self, refs: Iterable[Ref]) -> None:
        """Hold blocks for a task."""
        holds = self._holds
        for offset, size, _ in refs:
            region = self._layout.region_of(offset)
            if region:
                self._foreign[region][offset] = size
            holds[offset] = holds.get(offset, 0) + 1

    def find_unknown(self, refs: Iterable[Ref], region: int) -> Ref | None:
        """Return the first block that the worker of a region cannot have; None if there is none.

        It makes blocks in its own region. All others are held: by the tasks that it has in hand, or for its code.
        """
        for ref in refs:
            is_known = ref.offset in self._holds or self._layout.region_of(ref.offset) == region
            if not is_known or not self._layout.has_block(ref.offset, ref.size):
                return ref
        return None

    def drop(self, refs: Iterable[Ref]) -> None:
        """End a task's holds."""
        for ref in refs:
            self.drop_block(ref.offset)

    def is_held(self, offset: int) -> bool:
        """Tell whether a block is held, or has a view in this process."""
        return offset in self._holds or offset in self._leased

    def hold_block(self, offset: int) -> None:
        """Hold a block for a worker."""
        self._holds[offset] = self._holds.get(offset, 0) + 1

    def drop_block(self, offset: int) -> None:
        """End a hold."""
        count = self._holds[offset] - 1
        if count:
            self._holds[offset] = count
        else:
            del self._holds[offset]
            if offset not in self._leased:
                self._release(offset)

    def note_view_end(self, offset: int) -> None:
        """Note that the last view of a block in this process has ended."""
        if offset not in self._holds:
            self._release(offset)

    def pop_released(self, region: int) -> list[int]:
        """Remove and return the blocks of a worker's region that have been released and not yet reported to it."""
        released = self._released[region]
        if released:
            self._released[region] = []
        return released

    def adoptable_blocks(self, region: int) -> dict[int, int]:
        """Return the blocks of a region that are in use, for the next worker that allocates there.

        What was released for the worker before is forgotten: the next one treats it as free space.

        Returns:
            Size of each block by its offset.
        """
        self._released[region] = []
        return dict(self._foreign[region])

    def held_blocks(self) -> list[int]:
        """Return the offsets of the blocks that are held. Any thread may ask: the list is a copy."""
        return list(self._holds)

    def size_of(self, offset: int) -> int:
        """Return the size of a block of a worker's region; 0 if the block is not in use."""
        return self._foreign[self._layout.region_of(offset)].get(offset, 0)

    def foreign_size(self) -> int:
        """Return the bytes in use in the regions of workers. Any thread may ask."""
        return sum(sum(list(blocks.values())) for blocks in self._foreign)

    def _release(self, offset: int) -> None:
        region = self._layout.region_of(offset)
        if region:
            self._foreign[region].pop(offset, None)
            self._released[region].append(offset)
            if region in self.listeners:
                self.listeners[region]()
            self._on_released()
        else:
            self._free(offset)
