"""A passed deadline is reported soon and once; other entries leave no cost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from fastapi_aqueduct.engine.scheduling.deadlines import FEWEST, PERIODS, RESOLUTION, Deadlines

from ..support import DEADLINE, eventually


class Item:
    def __init__(self, id: int, deadline: float) -> None:
        self.id = id
        self.deadline = deadline
        self.period: dict[int, Any]

    def postpone(self, seconds: float) -> None:
        self.deadline += seconds


class Expired:
    """Collects who has expired, and when."""

    def __init__(self, wanted: int) -> None:
        self.items: list[tuple[int, float]] = []
        self._wanted = wanted
        self._done = asyncio.Event()

    def note(self, item: Item) -> None:
        self.items.append((item.id, time.monotonic() - item.deadline))
        if len(self.items) == self._wanted:
            self._done.set()

    async def wait(self) -> list[int]:
        await asyncio.wait_for(self._done.wait(), DEADLINE)
        return [id for id, _ in self.items]


async def test_everybody_expires_after_his_deadline_and_in_their_order() -> None:
    expired = Expired(6)
    deadlines = Deadlines(expired.note)
    now = time.monotonic()
    delays = [0.2, 0.05, 0.0, 0.12, 0.055, -1.0]
    for id, delay in enumerate(delays):
        deadlines.add(Item(id, now + delay), asyncio.get_running_loop())
    assert set(await expired.wait()) == set(range(6))
    order = [id for id, _ in expired.items]
    assert order.index(1) < order.index(4) < order.index(3) < order.index(0)
    assert all(late >= 0.0 for _, late in expired.items)


async def test_one_who_was_forgotten_does_not_expire() -> None:
    expired = Expired(1)
    deadlines = Deadlines(expired.note)
    now = time.monotonic()
    loop = asyncio.get_running_loop()
    items = [Item(id, now + 0.05 + id * RESOLUTION) for id in range(3)]
    for item in items:
        deadlines.add(item, loop)
    deadlines.remove(items[0])
    deadlines.remove(items[1])
    deadlines.remove(items[1])
    assert await expired.wait() == [2]


async def test_one_who_goes_while_others_expire_with_him_is_not_told() -> None:
    told: list[int] = []
    done = asyncio.Event()

    def tell(item: Item) -> None:
        told.append(item.id)
        for other in items:
            if other is not item:
                deadlines.remove(other)
        done.set()

    deadlines = Deadlines(tell)
    deadline = time.monotonic() + 0.05
    items = [Item(id, deadline) for id in range(3)]
    for item in items:
        deadlines.add(item, asyncio.get_running_loop())
    await asyncio.wait_for(done.wait(), DEADLINE)
    assert told == [0]


async def test_after_a_clear_nothing_expires_and_new_items_can_be_added() -> None:
    expired = Expired(1)
    deadlines = Deadlines(expired.note)
    loop = asyncio.get_running_loop()
    deadlines.add(Item(1, time.monotonic() + 0.02), loop)
    deadlines.clear()
    deadlines.add(Item(2, time.monotonic() + 0.1), loop)
    assert await expired.wait() == [2]


@pytest.mark.parametrize("kept", [0, 500])
async def test_those_who_have_gone_leave_nothing_behind(kept: int) -> None:
    deadlines: Deadlines[Item] = Deadlines(lambda item: None)
    loop = asyncio.get_running_loop()
    far = time.monotonic() + 1e6
    for id in range(20_000):
        item = Item(id, far + id / PERIODS)
        deadlines.add(item, loop)
        if id >= kept:
            deadlines.remove(item)
    assert len(deadlines._periods) <= 2 * (FEWEST + 2 * kept)
    deadlines.clear()


async def test_a_callback_that_raises_does_not_end_the_watch_over_the_others() -> None:
    expired = Expired(3)
    failures: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(str(context["exception"])))

    def tell(item: Item) -> None:
        if item.id in (0, 2):
            expired.items.append((item.id, 0.0))
            raise RuntimeError(f"item {item.id}")
        expired.note(item)

    deadlines = Deadlines(tell)
    now = time.monotonic()
    for id, delay in enumerate((0.02, 0.02, 0.1, 0.2)):
        deadlines.add(Item(id, now + delay), loop)
    await eventually(lambda: sorted(id for id, _ in expired.items) == [0, 1, 2, 3])
    assert failures == ["item 0", "item 2"]
