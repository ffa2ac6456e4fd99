"""The shared memory of an API process: what it has sent, and what it was lent."""

from __future__ import annotations

import os

import pytest

from fastapi_aqueduct.engine.memory.layout import Layout, Ref
from fastapi_aqueduct.engine.memory.mapping import Mapping, create_memory
from fastapi_aqueduct.engine.refusals import Refusals
from fastapi_aqueduct.engine.shared.client_memory import ClientMemory
from fastapi_aqueduct.engine.wire.frames import ProtocolError

LAYOUT = Layout(3, 1 << 20)
REGION = 2


class Memory:
    """The memory of a client in region 2, and what it has returned."""

    def __init__(self, blocks: dict[int, int] | None = None) -> None:
        fd = create_memory("test", LAYOUT.size)
        self.noted = 0
        mapping = Mapping(fd, LAYOUT.size)
        os.close(fd)
        self.client = ClientMemory(mapping, LAYOUT, REGION, blocks or {}, Refusals(), self._note)

    def _note(self) -> None:
        self.noted += 1

    def allocate(self) -> Ref:
        """Allocate a block of its own."""
        return self.client.arena.allocate(20_000)

    def is_free(self, ref: Ref) -> bool:
        """Tell whether a block of its own is free."""
        return ref.offset not in self.client.arena.allocator.blocks


FOREIGN = Ref(LAYOUT.start(1), 20_000)


def test_a_sent_block_is_free_when_it_is_released_as_often_as_it_was_sent() -> None:
    memory = Memory()
    ref = memory.allocate()
    memory.client.send([ref])
    memory.client.send([ref])  # again, while the first release is on its way
    memory.client.release([(ref.offset, 1)])
    assert not memory.is_free(ref)
    memory.client.release([(ref.offset, 1)])
    assert memory.is_free(ref)


def test_a_sent_block_with_a_view_is_free_when_both_have_ended() -> None:
    memory = Memory()
    ref = memory.allocate()
    lease = memory.client.arena.lend(ref)
    memory.client.send([ref])
    memory.client.release([(ref.offset, 1)])
    assert not memory.is_free(ref)
    del lease
    memory.client.arena.collect()
    assert memory.is_free(ref)


def test_a_lent_block_is_returned_once_with_the_number_of_times_that_it_came() -> None:
    memory = Memory()
    for _ in range(3):
        memory.client.accept([FOREIGN])
    memory.client.drop([FOREIGN])
    memory.client.drop([FOREIGN])
    assert memory.client.pop_returned() == []  # one has not been decoded
    memory.client.drop([FOREIGN])
    assert (memory.client.pop_returned(), memory.noted) == ([FOREIGN.offset, 3], 1)
    assert memory.client.lent == []


def test_a_lent_block_with_a_view_is_returned_when_the_view_has_ended() -> None:
    memory = Memory()
    memory.client.accept([FOREIGN])
    lease = memory.client.arena.lend(FOREIGN)
    memory.client.drop([FOREIGN])
    assert memory.client.pop_returned() == []
    del lease
    memory.client.arena.collect()
    assert memory.client.pop_returned() == [FOREIGN.offset, 1]


def test_a_view_that_ends_before_another_item_is_decoded_returns_nothing() -> None:
    memory = Memory()
    memory.client.accept([FOREIGN])
    memory.client.accept([FOREIGN])
    lease = memory.client.arena.lend(FOREIGN)
    memory.client.drop([FOREIGN])
    del lease
    memory.client.arena.collect()
    assert memory.client.pop_returned() == []
    memory.client.drop([FOREIGN])
    assert memory.client.pop_returned() == [FOREIGN.offset, 2]


def test_an_own_block_that_comes_back_is_returned_and_stays_until_it_is_released() -> None:
    memory = Memory()
    ref = memory.allocate()
    memory.client.send([ref])
    memory.client.accept([ref])
    memory.client.drop([ref])
    assert memory.client.pop_returned() == [ref.offset, 1]
    assert not memory.is_free(ref)
    memory.client.release([(ref.offset, 1)])
    assert memory.is_free(ref)


def test_blocks_of_an_earlier_process_are_in_use_until_they_are_released() -> None:
    offset = LAYOUT.start(REGION) + (1 << 12)
    memory = Memory({offset: 20_000})
    assert not memory.is_free(Ref(offset, 20_000))
    memory.client.release([(offset, 1)])
    assert memory.is_free(Ref(offset, 20_000))


def test_a_release_of_what_was_not_sent_is_refused() -> None:
    memory = Memory()
    ref = memory.allocate()
    memory.client.send([ref])
    with pytest.raises(ProtocolError, match="is released and was not sent"):
        memory.client.release([(ref.offset, 2)])


def test_a_release_that_counts_nothing_is_refused() -> None:
    """It would free a block that is being filled."""
    memory = Memory()
    ref = memory.allocate()
    with pytest.raises(ProtocolError, match="is released and was not sent"):
        memory.client.release([(ref.offset, 0)])
    assert not memory.is_free(ref)


def test_a_block_beyond_the_memory_is_refused() -> None:
    """A view of it would be one of anything, or end the process."""
    memory = Memory()
    for ref in (Ref(LAYOUT.size, 1), Ref(1 << 63, 8), Ref(LAYOUT.start(1), LAYOUT.region_size + 1)):
        with pytest.raises(ProtocolError, match="there is no block"):
            memory.client.accept([ref])
