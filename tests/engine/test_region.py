"""The allocator alone, against a model that remembers every byte."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from fastapi_aqueduct.engine.region import ALIGNMENT, Region, RegionFull, rounded

START, CAPACITY = 4096, 4096


class Allocation(RuleBasedStateMachine):
    """Any course of calls keeps blocks apart, aligned, inside, and accounted for."""

    blocks = Bundle("blocks")

    def __init__(self) -> None:
        super().__init__()
        self.region = Region(START, CAPACITY)
        self.model: dict[int, int] = {}
        self.is_new = True
        self.highest = START

    @precondition(lambda self: self.is_new)
    @rule(sizes=st.lists(st.integers(1, 300), max_size=8), gaps=st.lists(st.integers(0, 4), min_size=8, max_size=8))
    def adopt(self, sizes: list[int], gaps: list[int]) -> None:
        offset, left = START, {}
        for size, gap in zip(sizes, gaps, strict=False):
            offset += gap * ALIGNMENT
            left[offset] = size
            offset += rounded(size)
        self.region.adopt(left)
        self.model = {offset: rounded(size) for offset, size in left.items()}
        self.is_new = False

    @rule(target=blocks, size=st.integers(1, 1000))
    def allocate(self, size: int) -> int:
        self.is_new = False
        try:
            offset = self.region.allocate(size)
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

    @rule(offset=consumes(blocks))
    def free(self, offset: int) -> None:
        if offset < 0:
            return
        self.region.free(offset)
        del self.model[offset]
        with pytest.raises(KeyError):
            self.region.free(offset)

    @rule(offset=blocks, share=st.floats(0, 1))
    def shrink(self, offset: int, share: float) -> None:
        if offset < 0:
            return
        size = max(1, int(self.model[offset] * share))
        self.region.shrink(offset, size)
        self.model[offset] = rounded(size)

    @rule()
    def trim(self) -> None:
        free = self.region.trim()
        for offset, size in free:
            assert START <= offset
            assert offset + size <= START + CAPACITY
            for other, length in self.model.items():
                assert offset + size <= other or other + length <= offset, "memory in use would be given back"
        self.highest = self._end()

    @invariant()
    def accounts_are_right(self) -> None:
        self.highest = max(self.highest, self._end())
        assert self.region.blocks == self.model
        assert self.region.used == sum(self.model.values())
        assert self.region.touched == self.highest

    def _end(self) -> int:
        return max((offset + size for offset, size in self.model.items()), default=START)

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


TestAllocation = Allocation.TestCase
TestAllocation.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_holes_that_touch_become_one() -> None:
    region = Region(0, 10 * ALIGNMENT)
    blocks = [region.allocate(ALIGNMENT) for _ in range(10)]
    for offset in (blocks[3], blocks[5], blocks[4]):
        region.free(offset)
    assert region.allocate(3 * ALIGNMENT) == blocks[3]


def test_all_that_was_touched_is_given_back_when_nothing_is_used() -> None:
    region = Region(4096, 1 << 20)
    blocks = [region.allocate(1000) for _ in range(10)]
    for offset in blocks:
        region.free(offset)
    assert region.trim() == [(4096, 10 * 1024)]
    assert region.trim() == []
    assert region.touched == 4096
