"""Which waiting task goes next, with a clock of our own."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from fastapi_aqueduct.engine.scheduling.queue import AGING, BatchQueue


@dataclass
class Item:
    name: str
    priority: int = 0
    arrived_at: float = 0.0
    is_settled: bool = False


def queue(*items: Item, batch_size: int = 1, batch_timeout: float = 0.0, priorities: int = 1) -> BatchQueue[Item]:
    made: BatchQueue[Item] = BatchQueue(batch_size, batch_timeout, priorities)
    for item in items:
        made.push(item)
    return made


def names(items: list[Item]) -> list[str]:
    return [item.name for item in items]


def settle(waiting: BatchQueue[Item], item: Item) -> None:
    item.is_settled = True
    waiting.discard(item)


def test_first_come_first_served() -> None:
    waiting = queue(*[Item(name) for name in "abcde"], batch_size=2)
    assert [names(waiting.pop_batch(0.0)) for _ in range(3)] == [["a", "b"], ["c", "d"], ["e"]]
    assert waiting.count == 0


def test_a_full_batch_is_due_at_once_and_another_when_its_oldest_has_waited() -> None:
    waiting = queue(Item("a", arrived_at=10.0), batch_size=2, batch_timeout=0.5)
    assert waiting.due_at() == 10.5
    waiting.push(Item("b", arrived_at=10.2))
    assert waiting.due_at() == 10.0
    waiting.pop_batch(10.2)
    waiting.push(Item("c", arrived_at=10.3))
    assert waiting.due_at() == 10.8


def test_the_oldest_of_all_levels_decides_when_a_batch_is_due() -> None:
    waiting = queue(Item("late", 1, 5.0), Item("early", 0, 3.0), batch_size=9, batch_timeout=1.0, priorities=2)
    assert waiting.due_at() == 4.0


def test_a_settled_task_is_passed_over_and_does_not_count() -> None:
    items = [Item(name, arrived_at=float(number)) for number, name in enumerate("abcd")]
    waiting = queue(*items, batch_size=3, batch_timeout=10.0)
    settle(waiting, items[0])
    settle(waiting, items[2])
    assert waiting.count == waiting.waiting(0) == 2
    assert waiting.due_at() == 11.0
    assert names(waiting.pop_batch(0.0)) == ["b", "d"]


def test_higher_levels_go_first_and_fill_the_batch_first() -> None:
    waiting = queue(
        Item("low", 0), Item("mid", 1), Item("high", 2), Item("low2", 0), Item("high2", 2), batch_size=3, priorities=3
    )
    assert names(waiting.pop_batch(0.0)) == ["high", "high2", "mid"]
    assert names(waiting.pop_batch(0.0)) == ["low", "low2"]


def test_waiting_raises_a_task_by_one_level_after_each_aging() -> None:
    def winner(waited: float) -> str:
        return names(queue(Item("low", 0, 0.0), Item("high", 2, waited), priorities=3).pop_batch(waited))[0]

    assert winner(1.9 * AGING) == "high"
    assert winner(2.0 * AGING) == "high"
    assert winner(2.1 * AGING) == "low"


def test_steady_load_of_a_high_level_starves_no_low_one() -> None:
    waiting = queue(Item("low", 0, 0.0), priorities=2)
    now = 0.0
    while True:
        waiting.push(Item("high", 1, now))
        waiting.push(Item("high", 1, now))
        (taken,) = waiting.pop_batch(now)
        if taken.name == "low":
            break
        now += 0.01
        assert now < 2.1 * AGING
    assert waiting.count > 50


def test_priorities_out_of_range_count_as_the_nearest_level() -> None:
    waiting = queue(priorities=3)
    assert [waiting.level(priority) for priority in (-7, 0, 1, 2, 3, 99)] == [0, 0, 1, 2, 2, 2]


@given(
    st.lists(st.tuples(st.sampled_from(["push", "settle", "take"]), st.integers(0, 2), st.integers(0, 9)), max_size=60),
    st.integers(1, 4),
)
def test_nothing_is_lost_doubled_or_reordered(course: list[tuple[str, int, int]], batch_size: int) -> None:
    waiting: BatchQueue[Item] = BatchQueue(batch_size, 0.0, 3)
    there: list[Item] = []
    for now, (action, priority, choice) in enumerate(course):
        if action == "push":
            there.append(Item(str(now), priority, now / 100))
            waiting.push(there[-1])
        elif action == "settle" and there:
            settle(waiting, there.pop(choice % len(there)))
        elif action == "take":
            batch = waiting.pop_batch(now / 100)
            assert len(batch) == min(batch_size, len(there))
            for item in batch:
                assert not any(other.priority == item.priority for other in there[: there.index(item)])
                there.remove(item)
        assert waiting.count == len(there)
        assert [waiting.waiting(level) for level in range(3)] == [
            sum(item.priority == level for item in there) for level in range(3)
        ]
