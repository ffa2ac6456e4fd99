"""Which tasks share the next batch where keys and costs count, with a clock of our own, and beside a simple model."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_aqueduct.engine.marks import Marks
from fastapi_aqueduct.engine.scheduling.lane_queue import LaneQueue
from fastapi_aqueduct.engine.scheduling.queue import AGING

LIMIT = 10


@dataclass(eq=False)
class Item:
    name: str
    key: bytes = b""
    cost: int = 0
    priority: int = 0
    arrived_at: float = 0.0
    is_settled: bool = False

    @property
    def marks(self) -> Marks:
        return Marks(self.key, self.cost)


def lanes(*items: Item, batch_size: int = 3, batch_timeout: float = 0.0, limit: float = math.inf) -> LaneQueue[Item]:
    queue: LaneQueue[Item] = LaneQueue(batch_size, batch_timeout, 3, limit)
    for item in items:
        queue.push(item)
    return queue


def keyed(names: str, start: float = 0.0) -> list[Item]:
    """Return an item for each letter, whose key it is, one second after the other."""
    return [Item(f"{name}{number}", name.encode(), arrived_at=start + number) for number, name in enumerate(names)]


def costly(*costs: int) -> list[Item]:
    return [Item(str(cost), cost=cost, arrived_at=float(number)) for number, cost in enumerate(costs)]


def names(items: list[Item]) -> list[str]:
    return [item.name for item in items]


def drain(queue: LaneQueue[Item], now: float = 100.0) -> list[list[str]]:
    batches = []
    while queue.count:
        batches.append(names(queue.pop_batches(now, 9)))
    return batches


def settle(queue: LaneQueue[Item], item: Item) -> None:
    item.is_settled = True
    queue.discard(item)


def test_only_tasks_of_one_key_share_a_batch_and_the_oldest_chooses_it() -> None:
    assert drain(lanes(*keyed("abababa"))) == [["a0", "a2", "a4"], ["b1", "b3", "b5"], ["a6"]]


def test_a_higher_priority_chooses_the_key_and_waiting_raises_a_task() -> None:
    def first(waited: float) -> str:
        low = Item("low", b"l", arrived_at=0.0)
        return drain(lanes(low, Item("high", b"h", priority=2, arrived_at=waited)), waited)[0][0]

    assert [first(waited * AGING) for waited in (1.9, 2.0, 2.1)] == ["high", "high", "low"]


def test_a_key_waits_for_its_own_tasks_and_a_full_one_passes_it() -> None:
    queue = lanes(*keyed("ab"), batch_timeout=10.0)
    assert queue.due_at() == 10.0
    for item in keyed("bb", start=2.0):
        queue.push(item)
    assert queue.due_at() == 1.0 and queue.is_next_full(3.0)
    assert names(queue.pop_batch(3.0)) == ["b1", "b0", "b1"]
    assert queue.due_at() == 10.0 and not queue.is_next_full(3.0)


def test_a_key_whose_time_is_up_goes_before_a_full_one_with_younger_tasks() -> None:
    queue = lanes(*keyed("abbb"), batch_timeout=5.0)
    assert queue.pop_batch(5.0)[0].name == "a0"
    assert names(queue.pop_batch(5.0)) == ["b1", "b2", "b3"]


def test_a_lane_that_is_full_no_more_waits_again() -> None:
    items = keyed("aaa")
    queue = lanes(*items, batch_timeout=10.0)
    assert queue.due_at() == 0.0
    settle(queue, items[0])
    assert queue.due_at() == 11.0


def test_a_batch_closes_at_the_sum_and_a_task_above_the_limit_is_alone() -> None:
    queue = lanes(*costly(4, 6, 1, 11, 2, 8, 1), limit=LIMIT)
    assert drain(queue) == [["4", "6"], ["1"], ["11"], ["2", "8"], ["1"]]


def test_a_batch_whose_sum_is_reached_is_full() -> None:
    queue = lanes(*costly(4), batch_timeout=10.0, limit=LIMIT)
    assert queue.due_at() == 10.0
    queue.push(Item("6", cost=6, arrived_at=1.0))
    assert queue.due_at() == 0.0 and queue.is_next_full(1.0) and queue.next_size(1.0) == 2


def test_keys_that_are_gone_leave_nothing() -> None:
    items = keyed("abcdefgh")
    queue = lanes(*items)
    for item in items[::2]:
        settle(queue, item)
    assert set(queue.lanes) == {b"b", b"d", b"f", b"h"} and queue.calls() == 4
    drain(queue)
    assert not queue.lanes and not queue.changed and queue.calls() == 0
    queue.push(Item("z", b"z"))
    queue.pop_batch(0.0)
    assert not queue.lanes and not queue.changed and not queue.unnoted and not queue._due and not queue._held


def test_the_size_of_the_next_batch_is_that_of_the_batch_that_comes() -> None:
    """Also behind a task that was put back in front of older ones."""
    queue = lanes(*costly(8, 2), limit=LIMIT)
    queue.push_front(Item("3", cost=3, arrived_at=9.0))
    assert queue.next_size(10.0) == 1 and names(queue.pop_batch(10.0)) == ["3"]


def test_a_task_that_goes_alone_is_first_and_others_do_not_join_it() -> None:
    queue = lanes(*keyed("ab"))
    alone = Item("alone", b"a", arrived_at=9.0)
    queue.push_alone(alone)
    assert queue.has_alone and queue.next_size(9.0) == 1 and not queue.is_next_full(9.0) and queue.calls() == 3
    assert drain(queue) == [["alone"], ["a0"], ["b1"]]
    queue.push_alone(alone)
    settle(queue, alone)
    assert not queue.has_alone and queue.count == 0


class Model:
    """The same in the simplest way: one list, which is sorted for each batch.

    Args:
        batch_size: The most tasks in a batch.
        timeout: Seconds until a batch goes that is not full.
        limit: The most that a batch costs.
    """

    def __init__(self, batch_size: int, timeout: float, limit: float) -> None:
        self.items: list[Item] = []  # of equal rank in the order in which they go
        self.alone: list[Item] = []
        self._size, self._timeout, self._limit = batch_size, timeout, limit

    def lane(self, key: bytes) -> list[Item]:
        """Return the tasks of a key, in the order in which they go: of one priority as they stand in the queue."""
        heads = {
            level: [item for item in self.items if item.key == key and item.priority == level] for level in range(3)
        }
        ordered = []
        while any(heads.values()):
            level = min((level for level in heads if heads[level]), key=lambda level: rank(heads[level][0]))
            ordered.append(heads[level].pop(0))
        return ordered

    def is_due(self, key: bytes, now: float) -> bool:
        lane = self.lane(key)
        is_full = len(lane) >= self._size or sum(item.cost for item in lane) >= self._limit
        return is_full or min(self._heads(key)) + self._timeout <= now

    def _heads(self, key: bytes) -> list[float]:
        firsts = [next((i for i in self.items if i.key == key and i.priority == level), None) for level in range(3)]
        return [item.arrived_at for item in firsts if item is not None]

    def next(self, now: float) -> list[Item]:
        if self.alone:
            return self.alone[:1]
        keys = [key for key in {item.key for item in self.items} if self.is_due(key, now)]
        if not keys:
            return []
        best = min(rank(self.lane(key)[0]) for key in keys)
        (lane,) = [self.lane(key) for key in keys if rank(self.lane(key)[0]) == best]
        batch, cost = lane[:1], lane[0].cost
        for item in lane[1 : self._size]:
            cost += item.cost
            if cost > self._limit:
                break
            batch.append(item)
        return batch


def rank(item: Item) -> tuple[float, int]:
    return item.arrived_at - item.priority * AGING, -item.priority


steps = st.tuples(
    st.sampled_from(["push", "push", "push", "front", "alone", "settle", "take", "take"]),
    st.sampled_from([b"", b"a", b"b", b"c"]),
    st.integers(0, 2),
    st.integers(0, LIMIT + 2),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=50), st.integers(1, 4), st.sampled_from([0.0, 3.0]), st.sampled_from([LIMIT, math.inf]))
def test_it_does_what_the_model_does(course: list[Any], batch_size: int, timeout: float, limit: float) -> None:
    queue = lanes(batch_size=batch_size, batch_timeout=timeout, limit=limit)
    model = Model(batch_size, timeout, limit)
    clock = itertools.count()
    now = 0.0
    for action, key, priority, number in course:
        now = next(clock) + 1 / 64 * 1.0  # no two ranks are equal
        there = [*model.alone, *model.items]
        if action == "push":
            item = Item(str(now), key, number, priority, now - priority / 7)
            model.items.append(item)
            queue.push(item)
        elif action == "front":
            item = Item(str(now), key, number, priority, -now - priority / 7)
            model.items.insert(0, item)
            queue.push_front(item)
        elif action == "alone":
            item = Item(str(now), key, number, priority, now - priority / 7)
            model.alone.append(item)
            queue.push_alone(item)
        elif action == "settle" and there:
            item = there[number % len(there)]
            (model.alone if item in model.alone else model.items).remove(item)
            settle(queue, item)
        elif action == "take" and there:
            expected = model.next(now)
            assert (queue.due_at() <= now) == bool(expected)
            if expected:
                assert queue.next_size(now) == len(expected) and queue.head(now) is expected[0]
                assert queue.pop_batches(now, 5) == expected
                for item in expected:
                    (model.alone if item in model.alone else model.items).remove(item)
        left = [*model.alone, *model.items]
        assert queue.count == len(left)
        assert [queue.waiting(level) for level in range(3)] == [
            sum(item.priority == level for item in left) for level in range(3)
        ]
        assert set(queue.lanes) == {item.key for item in model.items}
        if left:
            assert queue.oldest_at() == min(
                itertools.chain(
                    (item.arrived_at for item in model.alone[:1]),
                    *(model._heads(key) for key in {item.key for item in model.items}),
                )
            )
