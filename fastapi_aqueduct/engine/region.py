"""Finds room for blocks inside one process's part of the arena."""

from __future__ import annotations

from bisect import bisect_left

ALIGNMENT = 64
"""Every block starts on a cache line, which is also what numpy's vector loops like best."""


class RegionFull(Exception):
    """No hole is large enough."""


class Region:
    """Allocates pieces of ``[start, start + capacity)`` by address-ordered first fit.

    Low addresses are used first, so the memory that is reused is the memory that is warm, and free space gathers at
    the top where it can be given back. Holes that touch are merged at once. (Wilson et al., "Dynamic Storage
    Allocation: A Survey and Critical Review", 1995, found this policy among the best against fragmentation.)

    Attributes:
        blocks: Size of each allocated block by its offset.
        used: Bytes in blocks.
        touched: Every address that was ever used since the last `trim` lies below this offset.
    """

    def __init__(self, start: int, capacity: int) -> None:
        self.start = start
        self.capacity = capacity
        self.blocks: dict[int, int] = {}
        self.used = 0
        self.touched = start
        self._top = start
        self._holes: list[int] = []
        self._hole_sizes: dict[int, int] = {}

    def allocate(self, size: int) -> int:
        """Take a block.

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
            self.touched = max(self.touched, self._top)
        self.blocks[offset] = size
        self.used += size
        return offset

    def free(self, offset: int) -> None:
        """Give a block back.

        Raises:
            KeyError: No block starts there: it was freed already.
        """
        size = self.blocks.pop(offset)
        self.used -= size
        self._add_hole(offset, size)

    def shrink(self, offset: int, size: int) -> None:
        """Free the end of a block.

        Args:
            offset: Where the block starts.
            size: Bytes to keep, at least 1 and no more than it has.
        """
        size = rounded(size)
        rest = self.blocks[offset] - size
        if rest:
            self.blocks[offset] = size
            self.used -= rest
            self._add_hole(offset + size, rest)

    def grow(self, offset: int, size: int) -> bool:
        """Make a block longer where it is, if what lies behind it is free.

        Args:
            offset: Where the block starts.
            size: Bytes it must have, no fewer than it has.

        Returns:
            Whether that was possible.
        """
        size = rounded(size)
        end = offset + self.blocks[offset]
        more = offset + size - end
        if end == self._top and offset + size <= self.start + self.capacity:
            self._top += more
            self.touched = max(self.touched, self._top)
        elif more and self._hole_sizes.get(end, 0) >= more:
            self._cut_hole(bisect_left(self._holes, end), more)
        elif more:
            return False
        self.blocks[offset] = size
        self.used += more
        return True

    def adopt(self, blocks: dict[int, int]) -> None:
        """Start with blocks that an earlier owner of the region left behind, alive in other processes.

        Args:
            blocks: Size of each block by its offset.
        """
        for offset in sorted(blocks):
            size = rounded(blocks[offset])
            if offset > self._top:
                self._add_hole(self._top, offset - self._top)
            self._top = offset + size
            self.blocks[offset] = size
            self.used += size
        self.touched = max(self.touched, self._top)

    def trim(self) -> list[tuple[int, int]]:
        """Forget that free memory was ever touched.

        Returns:
            Offset and size of everything that is free, for the caller to give back to the system.
        """
        free = [(offset, self._hole_sizes[offset]) for offset in self._holes]
        if self.touched > self._top:
            free.append((self._top, self.touched - self._top))
        self.touched = self._top
        return free

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
