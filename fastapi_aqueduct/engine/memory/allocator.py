"""The free space of one region."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator

from .pages import Pages

ALIGNMENT = 64
"""Every block starts on a cache line, which is also what numpy's vector loops like best."""


class RegionFull(Exception):
    """No hole is large enough. `Arena` catches it: a caller gets `ArenaFull`, or waits."""


class Allocator:
    """Allocates blocks in ``[start, start + capacity)`` by address-ordered first fit.

    Low addresses are used first, so warm memory is reused, and free space gathers at the top, from where it can be
    returned. Adjacent holes are merged at once. (Wilson et al., "Dynamic Storage Allocation: A Survey and Critical
    Review", 1995, found this policy among the best against fragmentation.)

    A block has addresses. It uses memory as it is filled: `allocate` makes a block that is filled at once, `place` one
    that is filled from its beginning on, up to what was passed to `fill`.

    Attributes:
        blocks: Size of each allocated block by its offset.
        reserved: Bytes of addresses in blocks.
        used: Bytes of memory in blocks: those that are filled.
        pages: The pages that hold memory: those of filled blocks, and those of free ones that were not returned.
    """

    def __init__(self, start: int, capacity: int) -> None:
        self.start = start
        self.capacity = capacity
        self.blocks: dict[int, int] = {}
        self.reserved = 0
        self.used = 0
        self.pages = Pages()
        self._top = start
        self._holes: list[int] = []
        self._hole_sizes: dict[int, int] = {}
        self._filled: dict[int, int] = {}

    def allocate(self, size: int) -> int:
        """Allocate a block whose memory is used at once; the caller adds it to the pages.

        Args:
            size: Bytes, at least 1; rounded up to `ALIGNMENT`.

        Returns:
            The offset of the block.

        Raises:
            RegionFull: No hole is large enough.
        """
        size = rounded(size)
        for index, offset in enumerate(self._holes):
            if self._hole_sizes[offset] >= size:
                self._cut_hole(index, size)
                break
        else:
            offset = self._top
            if offset + size > self.start + self.capacity:
                raise RegionFull
            self._top += size
        self.blocks[offset] = size
        self.reserved += size
        self.used += size
        return offset

    def place(self, size: int) -> int:
        """Allocate a block of which no byte is filled yet.

        Args:
            size: Bytes, at least 1; rounded up to `ALIGNMENT`.

        Returns:
            The offset of the block.

        Raises:
            RegionFull: No hole is large enough.
        """
        offset = self.allocate(size)
        self.used -= self.blocks[offset]
        self._filled[offset] = 0
        return offset

    def fill(self, offset: int, size: int) -> None:
        """Count the beginning of a block as used; the caller adds it to the pages.

        Args:
            offset: Start of a block from `place`.
            size: Bytes that are filled, no fewer than before.
        """
        size += -size % ALIGNMENT  # `rounded`, without a call for each piece of a body
        self.used += size - self._filled[offset]
        self._filled[offset] = size

    def drain(self, offset: int, size: int) -> list[tuple[int, int]]:
        """Count bytes at the beginning of a block as no longer used.

        Args:
            offset: Start of a block from `place`. It cannot be filled any more.
            size: Bytes that are not needed, no fewer than before.

        Returns:
            Offset and size of each range that the caller must return to the system.
        """
        returned = self.pages.remove(offset, offset + size, sys.maxsize)
        gone = sum(length for _, length in returned)
        self.used -= gone
        self._filled[offset] -= gone
        return returned

    def free(self, offset: int) -> None:
        """Free a block.

        Raises:
            KeyError: No block starts there; it was freed already.
        """
        size = self.blocks.pop(offset)
        self.reserved -= size
        self.used -= self._filled.pop(offset, size)
        self._add_hole(offset, size)

    def finish(self, offset: int, size: int) -> None:
        """Free the end of a block that was not filled.

        Args:
            offset: Start of a block from `place`.
            size: Bytes that are filled, at least 1.
        """
        del self._filled[offset]
        size = rounded(size)
        rest = self.blocks[offset] - size
        if rest:
            self.blocks[offset] = size
            self.reserved -= rest
            self._add_hole(offset + size, rest)

    def grow(self, offset: int, size: int) -> bool:
        """Extend a block where it is, if the addresses behind it are free.

        Args:
            offset: Start of a block from `place`.
            size: Bytes it must have, no fewer than it has.

        Returns:
            Whether they were free.
        """
        size = rounded(size)
        end = offset + self.blocks[offset]
        more = offset + size - end
        if end == self._top and offset + size <= self.start + self.capacity:
            self._top += more
        elif more and self._hole_sizes.get(end, 0) >= more:
            self._cut_hole(bisect_left(self._holes, end), more)
        elif more:
            return False
        self.blocks[offset] = size
        self.reserved += more
        return True

    def adopt(self, blocks: dict[int, int]) -> None:
        """Start with blocks that an earlier owner of the region left and that other processes use.

        Args:
            blocks: Size of each block by its offset.
        """
        # Which other pages that owner has touched is not known.
        self.pages.add(self.start, self.start + self.capacity)
        for offset in sorted(blocks):
            size = rounded(blocks[offset])
            if offset > self._top:
                self._add_hole(self._top, offset - self._top)
            self._top = offset + size
            self.blocks[offset] = size
            self.reserved += size
            self.used += size

    def trim(self, most: int = sys.maxsize) -> list[tuple[int, int]]:
        """Remove free space from the pages that hold memory, from high addresses down.

        Args:
            most: Stop after this many bytes.

        Returns:
            Offset and size of each range that the caller must return to the system.
        """
        given: list[tuple[int, int]] = []
        for start, end in self._unused():
            if most <= 0:
                break
            pages = self.pages.remove(start, end, most)
            most -= sum(size for _, size in pages)
            given += pages
        return given

    def _unused(self) -> Iterator[tuple[int, int]]:
        """Yield unused ranges: free ones from the top down, then the ends of blocks that are being filled."""
        yield self._top, self.start + self.capacity
        for offset in reversed(self._holes):
            yield offset, offset + self._hole_sizes[offset]
        for offset in reversed(self._filled):
            yield offset + self._filled[offset], offset + self.blocks[offset]

    def _cut_hole(self, index: int, size: int) -> None:
        offset = self._holes[index]
        rest = self._hole_sizes.pop(offset) - size
        if rest:
            self._holes[index] = offset + size
            self._hole_sizes[offset + size] = rest
        else:
            del self._holes[index]

    def _add_hole(self, offset: int, size: int) -> None:
        index = bisect_left(self._holes, offset)
        if index < len(self._holes) and self._holes[index] == offset + size:
            size += self._hole_sizes.pop(self._holes.pop(index))
        if index and self._holes[index - 1] + self._hole_sizes[self._holes[index - 1]] == offset:
            index -= 1
            offset = self._holes.pop(index)
            size += self._hole_sizes.pop(offset)
        if offset + size == self._top:
            self._top = offset
            return
        self._holes.insert(index, offset)
        self._hole_sizes[offset] = size


def rounded(size: int) -> int:
    """Round a size up to `ALIGNMENT`."""
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
