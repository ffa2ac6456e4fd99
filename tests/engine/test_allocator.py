"""The allocator alone, against a model that remembers every byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from fastapi_aqueduct.engine.memory.allocator import ALIGNMENT, Allocator, RegionFull, rounded
from fastapi_aqueduct.engine.memory.mapping import PAGE

START, CAPACITY = 3 * PAGE, 4 * PAGE


class Allocation(RuleBasedStateMachine):
    """Any course of calls keeps blocks apart, aligned, inside, and accounted for to the byte and to the page."""

    blocks = Bundle("blocks")

    def __init__(self) -> None:
        super().__init__()
        self.region = Allocator(START, CAPACITY)
        self.model: dict[int, int] = {}
        self.filled: dict[int, int] = {}
        self.pages: set[int] = set()
        self.is_new = True

    @precondition(lambda self: self.is_new)
    @rule(sizes=st.lists(st.integers(1, 300), max_size=8), gaps=st.lists(st.integers(0, 99), min_size=8, max_size=8))
    def adopt(self, sizes: list[int], gaps: list[int]) -> None:
        offset, left = START, {}
        for size, gap in zip(sizes, gaps, strict=False):
            offset += gap * ALIGNMENT
            left[offset] = size
            offset += rounded(size)
        left = {offset: size for offset, size in left.items() if offset + rounded(size) <= START + CAPACITY}
        self.region.adopt(left)
        self.model = {offset: rounded(size) for offset, size in left.items()}
        self.filled = dict(self.model)
        self.pages = set(range(START, START + CAPACITY, PAGE))
        self.is_new = False

    @rule(target=blocks, size=st.integers(1, 2 * PAGE))
    def allocate(self, size: int) -> int:
        offset = self._take(size, self.region.allocate)
        if offset >= 0:
            self.filled[offset] = rounded(size)
            missing = self.region.pages.missing(offset, offset + size)
            assert missing == PAGE * len(_pages(offset, offset + size) - self.pages)
            self.region.pages.add(offset, offset + size)
            self.pages |= _pages(offset, offset + size)
        return offset

    @rule(target=blocks, size=st.integers(1, 2 * PAGE))
    def place(self, size: int) -> int:
        offset = self._take(size, self.region.place)
        if offset >= 0:
            self.filled[offset] = 0
        return offset

    @rule(offset=blocks, share=st.floats(0, 1))
    def fill(self, offset: int, share: float) -> None:
        if offset in self.region._filled:
            size = max(self.filled[offset], int(self.model[offset] * share), 1)
            self.region.pages.add(offset, offset + size)
            self.region.fill(offset, size)
            self.filled[offset] = rounded(size)
            self.pages |= _pages(offset, offset + size)

    @rule(offset=blocks, share=st.floats(0, 1))
    def finish(self, offset: int, share: float) -> None:
        if offset in self.region._filled and self.filled[offset]:
            self.region.finish(offset, self.filled[offset])
            self.model[offset] = self.filled[offset]

    @rule(offset=blocks, size=st.integers(1, 2 * PAGE))
    def grow(self, offset: int, size: int) -> None:
        if offset in self.region._filled:
            size = max(size, self.model[offset])
            end = offset + rounded(size)
            is_free = end <= START + CAPACITY and not any(offset < other < end for other in self.model)
            assert self.region.grow(offset, size) == is_free
            if is_free:
                self.model[offset] = rounded(size)

    @rule(offset=consumes(blocks), share=st.floats(0, 1))
    def move_away(self, offset: int, share: float) -> None:
        """What has been copied is given back before the block is free."""
        if offset in self.region._filled:
            size = int(self.filled[offset] * share)
            gone = {page for page in self.pages if offset <= page and page + PAGE <= offset + size}
            assert _listed(self.region.drain(offset, size)) == gone
            self.pages -= gone
            self.filled[offset] -= PAGE * len(gone)
            self.accounts_are_right()
            self.free(offset)

    @rule(offset=consumes(blocks))
    def free(self, offset: int) -> None:
        if offset < 0 or offset not in self.model:
            return
        self.region.free(offset)
        del self.model[offset], self.filled[offset]
        with pytest.raises(KeyError):
            self.region.free(offset)

    @rule(most=st.integers(1, CAPACITY))
    def trim(self, most: int) -> None:
        given = _listed(self.region.trim(most))
        assert not given & self._needed(), "memory in use would be given back"
        stretches = self._unused()
        unused = {page for page in self.pages if any(low <= page and page + PAGE <= high for low, high in stretches)}
        assert given <= unused
        assert len(given) == min(-(-most // PAGE), len(unused))
        self.pages -= given

    @invariant()
    def accounts_are_right(self) -> None:
        assert self.region.blocks == self.model
        assert self.region.reserved == sum(self.model.values())
        assert self.region.used == sum(self.filled.values())
        assert self.region.pages.size == PAGE * len(self.pages)
        for page in range(START - PAGE, START + CAPACITY + PAGE, PAGE):
            assert self.region.pages.missing(page + 1, page + 2) == (0 if page in self.pages else PAGE)

    def _take(self, size: int, take: Callable[[int], int]) -> int:
        self.is_new = False
        try:
            offset = take(size)
        except RegionFull:
            assert self._largest_hole() < rounded(size)
            return -1
        assert offset % ALIGNMENT == 0
        assert START <= offset
        assert offset + rounded(size) <= START + CAPACITY
        for other, length in self.model.items():
            assert offset + rounded(size) <= other or other + length <= offset, "two blocks overlap"
        # The first hole that is large enough, not any.
        assert offset == self._first_hole(rounded(size))
        self.model[offset] = rounded(size)
        return offset

    def _needed(self) -> set[int]:
        return set().union(*(_pages(offset, offset + size) for offset, size in self.filled.items()))

    def _unused(self) -> list[tuple[int, int]]:
        ends = [(offset + self.filled[offset], offset + size) for offset, size in self.model.items()]
        return ends + [(offset, offset + size) for offset, size in self._holes()]

    def _holes(self) -> list[tuple[int, int]]:
        holes, position = [], START
        for offset in sorted(self.model):
            holes.append((position, offset - position))
            position = offset + self.model[offset]
        return [*holes, (position, START + CAPACITY - position)]

    def _largest_hole(self) -> int:
        return max(size for _, size in self._holes())

    def _first_hole(self, size: int) -> int:
        return next(offset for offset, room in self._holes() if room >= size)


def _pages(start: int, end: int) -> set[int]:
    return set(range(start // PAGE * PAGE, end, PAGE)) if start < end else set()


def _listed(stretches: list[tuple[int, int]]) -> set[int]:
    found = [page for offset, size in stretches for page in range(offset, offset + size, PAGE)]
    assert len(found) == len(set(found))
    return set(found)


TestAllocation = Allocation.TestCase
TestAllocation.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_holes_that_touch_become_one() -> None:
    region = Allocator(0, 10 * ALIGNMENT)
    blocks = [region.allocate(ALIGNMENT) for _ in range(10)]
    for offset in (blocks[3], blocks[5], blocks[4]):
        region.free(offset)
    assert region.allocate(3 * ALIGNMENT) == blocks[3]


def test_all_memory_is_given_back_when_nothing_is_used() -> None:
    region = Allocator(PAGE, 1 << 20)
    for offset in [region.allocate(1000) for _ in range(10)]:
        region.pages.add(offset, offset + 1000)
        region.free(offset)
    assert region.trim() == [(PAGE, region.pages.size or -(-10 * 1024 // PAGE) * PAGE)]
    assert region.trim() == []
    assert region.pages.size == 0


def test_announced_bytes_take_no_memory_and_do_not_keep_what_lies_in_them() -> None:
    region = Allocator(PAGE, 64 * PAGE)
    region.fill(offset := region.place(16 * PAGE), 16 * PAGE)
    region.pages.add(offset, offset + 16 * PAGE)
    region.free(offset)
    assert region.place(32 * PAGE) == offset  # where the memory is warm
    region.fill(offset, PAGE)
    assert (region.used, region.reserved, region.pages.size) == (PAGE, 32 * PAGE, 16 * PAGE)
    assert region.trim() == [(offset + PAGE, 15 * PAGE)]
