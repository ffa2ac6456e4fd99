"""The holds on blocks, without memory, processes or an event loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastapi_aqueduct.engine.memory.layout import Layout, Ref
from fastapi_aqueduct.engine.memory.ledger import Ledger
from fastapi_aqueduct.engine.memory.mapping import PAGE

LAYOUT = Layout(regions=3, limit=4 * PAGE)
OWN = Ref(LAYOUT.start(0), 100)
FIRST = Ref(LAYOUT.start(1), 200)
SECOND = Ref(LAYOUT.start(2), 300)


class Account:
    """A ledger, the views of this process, and what was freed."""

    def __init__(self) -> None:
        self.views: set[int] = set()
        self.freed: list[int] = []
        self.releases = 0
        self.ledger = Ledger(LAYOUT, self.views, self.freed.append, self.count_release)

    def count_release(self) -> None:
        self.releases += 1

    def end_view(self, ref: Ref) -> None:
        self.views.remove(ref.offset)
        self.ledger.note_view_end(ref.offset)

    def released(self) -> list[list[int]]:
        return [self.freed, self.ledger.pop_released(1), self.ledger.pop_released(2)]


@pytest.fixture
def account() -> Account:
    return Account()


def test_a_block_is_released_to_the_owner_of_its_region_with_its_last_hold(account: Account) -> None:
    blocks = [OWN, FIRST, SECOND]
    account.ledger.hold(blocks)
    account.ledger.hold_block(FIRST.offset)
    account.ledger.drop(blocks)
    assert account.released() == [[OWN.offset], [], [SECOND.offset]]
    account.ledger.drop_block(FIRST.offset)
    assert account.released() == [[OWN.offset], [FIRST.offset], []]
    assert account.releases == 2


@pytest.mark.parametrize("ref", [OWN, FIRST])
@pytest.mark.parametrize("view_ends_first", [True, False])
def test_a_block_with_a_view_or_a_hold_is_not_released(account: Account, ref: Ref, view_ends_first: bool) -> None:
    account.ledger.hold([ref])
    account.views.add(ref.offset)
    ends: list[Callable[[], None]] = [lambda: account.end_view(ref), lambda: account.ledger.drop([ref])]
    for end in ends if view_ends_first else reversed(ends):
        assert account.released() == [[], [], []]
        end()
    assert sum(account.released(), []) == [ref.offset]


def test_the_next_owner_of_a_region_adopts_what_is_in_use(account: Account) -> None:
    viewed = Ref(FIRST.offset + PAGE, 50)
    account.ledger.hold([FIRST, viewed, SECOND])
    account.views.add(viewed.offset)
    account.ledger.drop([viewed, FIRST])
    assert account.ledger.adoptable_blocks(1) == {viewed.offset: viewed.size}
    assert account.ledger.pop_released(1) == [], "the next owner counts it as free space, and would free it twice"
    account.end_view(viewed)
    assert account.ledger.pop_released(1) == [viewed.offset]


@pytest.mark.parametrize(
    ("offset", "size", "exists"),
    [
        (OWN.offset, 100, True),
        (FIRST.offset, 0, True),
        (SECOND.offset, 4 * PAGE, True),
        (SECOND.offset, 4 * PAGE + 1, False),
        (FIRST.offset - 1, 2, False),
        (LAYOUT.size, 1, False),
    ],
)
def test_a_block_lies_in_one_region(offset: int, size: int, exists: bool) -> None:
    assert LAYOUT.has_block(offset, size) is exists


def test_a_worker_cannot_have_a_block_of_another_region_that_nothing_holds(account: Account) -> None:
    ledger = account.ledger
    assert ledger.find_unknown([FIRST, OWN], 1) == OWN
    assert ledger.find_unknown([FIRST], 2) == FIRST
    ledger.hold([OWN])
    ledger.hold_block(FIRST.offset)
    assert ledger.find_unknown([FIRST, OWN, SECOND], 2) is None
    assert ledger.find_unknown([Ref(LAYOUT.start(2), LAYOUT.region_size + 1)], 2) is not None
