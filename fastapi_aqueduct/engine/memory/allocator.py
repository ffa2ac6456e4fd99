"""Finds room for blocks inside one process's part of the arena."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator

from .pages import Pages

ALIGNMENT = 64
"""Every block starts on a cache line, which is also what numpy's vector loops like best."""


class RegionFull(Exception):
    """No hole is large enough."""


class Allocator:
    """Allocates pieces of ``[start, start + capacity)`` by address-ordered first fit.

    Low addresses are used first, so the memory that is reused is the memory that is warm, and free space gathers at
    the top where it can be given back. Holes that touch are merged at once. (Wilson et al., "Dynamic Storage
    Allocation: A Survey and Critical Review", 1995, found this policy among the best against fragmentation.)

    A block takes addresses. It takes memory as it is filled: `allocate` makes one that is filled at once, `place` one
    that is filled from its beginning on, as far as `fill` was told.

    Attributes:
        blocks: Size of each allocated block by its offset.
        reserved: Bytes of addresses in blocks.
        used: Bytes of memory in blocks: those that are filled.
        pages: The pages that hold memory: those of filled blocks, and those of free ones that were not given back.
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
        """Take a block whose memory is used at once; the caller adds it to the pages.

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
        """Take a block of which no byte is filled yet.

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
        """Count the beginning of a block as used.

        Args:
            offset: Where a block starts that `place` has made.
            size: Bytes that are filled, no fewer than before.
        """
        size = rounded(size)
        self.used += size - self._filled[offset]
        self._filled[offset] = size
        self.pages.add(offset, offset + size)

    def drain(self, offset: int, size: int) -> list[tuple[int, int]]:
        """Count so many bytes at the beginning of a block as used no longer.

        Args:
            offset: Where a block starts that `place` has made. It cannot be filled any more.
            size: Bytes that are not needed, no fewer than before.

        Returns:
            Offset and size of what the caller must give back to the system.
        """
        returned = self.pages.remove(offset, offset + size, sys.maxsize)
        gone = sum(length for _, length in returned)
        self.used -= gone
        self._filled[offset] -= gone
        return returned

    def free(self, offset: int) -> None:
        """Give a block back.

        Raises:
            KeyError: No block starts there: it was freed already.
        """
        size = self.blocks.pop(offset)
        self.reserved -= size
        self.used -= self._filled.pop(offset, size)
        self._add_hole(offset, size)

    def finish(self, offset: int, size: int) -> None:
        """Free the end of a block that was not filled.

        Args:
            offset: Where a block starts that `place` has made.
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
        """Make a block longer where it is, if what lies behind it is free.

        Args:
            offset: Where a block starts that `place` has made.
            size: Bytes it must have, no fewer than it has.

        Returns:
            Whether that was possible.
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
        """Start with blocks that an earlier owner of the region left behind, alive in other processes.

        Args:
            blocks: Size of each block by its offset.
        """
        # What else that owner has touched is not known.
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
        """Forget that free memory holds memory of the system, that at high addresses first.

        Args:
            most: It is enough when so many bytes are given back.

        Returns:
            Offset and size of what the caller must give back to the system.
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
        """List what holds nothing: what is free, from the top down, then the ends of blocks that are being filled."""
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
