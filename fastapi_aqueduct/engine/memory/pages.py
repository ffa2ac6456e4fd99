"""The pages of a file that hold memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from mmap import PAGESIZE as PAGE


class Pages:
    """A set of pages, kept as ranges.

    Attributes:
        size: Bytes of all pages in the set.
    """

    def __init__(self) -> None:
        self.size = 0
        self._starts: list[int] = []
        self._ends: list[int] = []

    def missing(self, start: int, end: int) -> int:
        """Return the bytes of the pages that a range touches and that are not in the set."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and end <= self._ends[index]:
            return 0
        start, end = _down(start), _up(end)
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        present = 0
        for index in range(first, last):
            present += min(end, self._ends[index]) - max(start, self._starts[index])
        return end - start - present

    def add(self, start: int, end: int) -> None:
        """Add every page that a range touches."""
        start, end = _down(start), _up(end)
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self.size += end - start - self._length(first, last)
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int, most: int) -> list[tuple[int, int]]:
        """Remove the pages that lie wholly in a range, from its end on.

        Args:
            start: Start of the range.
            end: End of the range.
            most: Stop after this many bytes.

        Returns:
            Offset and size of each range that was removed.
        """
        start, end = _up(start), end // PAGE * PAGE
        removed: list[tuple[int, int]] = []
        index = bisect_left(self._starts, end) - 1
        while most > 0 and start < end and index >= 0 and self._ends[index] > start:
            begin, stop = self._starts[index], self._ends[index]
            upper = min(stop, end)
            lower = max(begin, start, upper - _up(most))
            rest = [(low, high) for low, high in ((begin, lower), (upper, stop)) if low < high]
            self._starts[index : index + 1] = [low for low, _ in rest]
            self._ends[index : index + 1] = [high for _, high in rest]
            removed.append((lower, upper - lower))
            self.size -= upper - lower
            most -= upper - lower
            index -= 1
        return removed

    def _length(self, first: int, last: int) -> int:
        return sum(self._ends[index] - self._starts[index] for index in range(first, last))


def _down(offset: int) -> int:
    return offset // PAGE * PAGE


def _up(offset: int) -> int:
    return -(-offset // PAGE) * PAGE
