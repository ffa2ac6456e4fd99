"""What a worker has in hand and how fast it works on that, as its in-flight table tells."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_aqueduct.engine.wire.frames import ProtocolError
from fastapi_aqueduct.engine.workers.in_flight import NUMBERS, PREFETCH, InFlight

BATCH = 4
"""The most tasks in one call."""

PID = 4321
IDS = itertools.count(1)


@dataclass
class Item:
    """What is in a table."""

    id: int = 0
    is_waiting: bool = True
    is_settled: bool = False
    holder: int = 0
    sent_at: float = 0.0
    deaths: int = 0


@pytest.fixture
def table() -> InFlight[Item]:
    return InFlight(BATCH)


def put(table: InFlight[Item], now: float = 0.0, count: int = BATCH) -> tuple[list[Item], int]:
    """Put a batch in; return its tasks and its number."""
    items = [Item(next(IDS)) for _ in range(count)]
    sent, duration, size, number = table.put(items, PID, now)
    assert (sent, duration, size) == (items, 0.0, BATCH)
    return items, number


def work(table: InFlight[Item], *durations: float) -> None:
    """Put batches one after the other; each is answered at once, with its duration in seconds."""
    for duration in durations:
        items, number = put(table)
        table.complete(number, items, duration, 0.0)


def test_a_worker_whose_calls_take_a_steady_time_tells_when_it_is_free(table: InFlight[Item]) -> None:
    work(table, *[0.030, 0.031] * 20)
    assert table.free_at() == math.inf  # it is
    put(table, 7.0)
    assert table.free_at() == pytest.approx(7.030, abs=0.001)
    put(table, 7.0)
    assert table.free_at() == math.inf  # it has its next batch already


@pytest.mark.parametrize("durations", [[0.030], [0.010, 0.050] * 20, [PREFETCH / 4] * 40])
def test_others_do_not(table: InFlight[Item], durations: list[float]) -> None:
    work(table, *durations)
    put(table, 7.0)
    assert table.free_at() == math.inf


def test_tasks_that_expired_on_the_way_say_nothing_about_a_worker(table: InFlight[Item]) -> None:
    items, number = put(table)
    table.complete(number, items, 0.0, 0.0, has_run=False)
    assert table.prefetch == 1
    assert table.calls_per_batch == 1
    work(table, *[0.030] * 40)
    items, number = put(table)
    table.complete(number, items, 0.0, 0.0, has_run=False)
    put(table, 7.0)
    assert table.free_at() == pytest.approx(7.030, abs=0.001)


def test_an_early_answer_is_no_call_of_its_own(table: InFlight[Item]) -> None:
    work(table, *[0.030] * 40)
    for _ in range(20):
        items, number = put(table)
        for item, duration in zip(items, (0.001, 0.002, 0.003, 0.030), strict=True):
            table.complete(number, [item], duration, 0.0)
    put(table, 7.0)
    assert table.free_at() == pytest.approx(7.030, abs=0.001)


def test_a_task_that_is_put_in_knows_its_worker(table: InFlight[Item]) -> None:
    (item, *_), _ = put(table, 7.0)
    assert item == Item(item.id, is_waiting=False, holder=PID, sent_at=7.0)


def test_batches_are_answered_in_any_order_and_in_parts(table: InFlight[Item]) -> None:
    first, one = put(table, count=2 * BATCH)
    second, two = put(table, count=2)
    assert (len(table), table.calls) == (10, 3)
    assert table.complete(two, second[::-1], 0.1, 1.0) == (second[::-1], 0.1, len(second), 1)
    assert (len(table), table.calls) == (8, 2)
    assert table.complete(one, [first[5], first[0]], 0.1, 2.0) == ([first[5], first[0]], 0.1, BATCH, 0)
    assert (len(table), table.calls) == (6, 2)
    rest = [item for item in first if item not in (first[0], first[5])]
    assert table.complete(one, rest, 0.4, 3.0) == (rest, 0.2, BATCH, 2)  # for each of its two calls
    assert (len(table), table.calls, table.handled, table.head_since) == (0, 0, 10, 3.0)
    assert not table


def test_an_answer_that_makes_no_sense_changes_nothing(table: InFlight[Item]) -> None:
    items, number = put(table)
    other, another = put(table)
    for wrong, answers in [
        (number + 7, items),
        (number, other),
        (number, [*items, items[0]]),
        (number, [items[0], Item(1 << 40)]),
        (number, []),
    ]:
        with pytest.raises(ProtocolError, match=f"batch {wrong}"):
            table.complete(wrong, answers, 0.1, 1.0)
    assert (len(table), table.calls, table.handled) == (8, 2, 0)
    table.complete(number, items, 0.1, 1.0)
    table.complete(another, other, 0.1, 1.0)
    with pytest.raises(ProtocolError):
        table.complete(number, items, 0.1, 1.0)


def test_tasks_whose_answers_make_no_sense_are_to_blame(table: InFlight[Item]) -> None:
    items, number = put(table)
    others, _ = put(table)
    table.complete(number, items, 0.1, 1.0)
    table.restore(items[2:])
    assert len(table) == 6
    assert table.take_all(items[0].id) == ([], items[2:], others)
    assert (len(table), table.calls) == (0, 0)


def test_of_a_dead_worker_the_call_that_it_was_in_is_told_from_the_others(table: InFlight[Item]) -> None:
    done, _ = put(table)
    items, _ = put(table, count=3 * BATCH)
    untouched, _ = put(table)
    assert table.take_all(items[4].id) == (done + items[:4], items[4:8], items[8:] + untouched)


def test_of_one_that_ran_a_batch_again_one_by_one_those_that_it_had_run_are_not_to_blame(table: InFlight[Item]) -> None:
    items, _ = put(table, count=2 * BATCH)
    assert table.take_all(items[5].id) == (items[:5], items[5:], [])


def test_of_one_that_was_in_no_call_all_is_untouched(table: InFlight[Item]) -> None:
    items, _ = put(table)
    assert table.take_all(0) == ([], [], items)


def test_what_is_left_of_a_batch_that_is_answered_in_part_has_begun(table: InFlight[Item]) -> None:
    items, number = put(table, count=3 * BATCH)
    others, another = put(table)
    last, _ = put(table)
    table.complete(number, items[:6:2], 0.1, 1.0)
    table.complete(another, others[3:], 0.1, 1.0)
    begun, in_hand, untouched = table.take_all(items[4].id)
    assert in_hand == items[5:8]
    assert begun == [items[1], items[3], *items[8:], *others[:3]]
    assert untouched == last


def test_whether_a_task_has_begun(table: InFlight[Item]) -> None:
    first, _ = put(table, count=2 * BATCH)
    second, _ = put(table)
    current = first[4].id
    assert [table.has_begun(item, current) for item in first + second] == [True] * 8 + [False] * 4
    assert not table.has_begun(first[0], 0)


def test_a_worker_is_abandoned_whose_oldest_batch_has_ended_without_it(table: InFlight[Item]) -> None:
    assert not table.is_abandoned()
    items, _ = put(table)
    put(table)
    assert not table.is_abandoned()
    for item in items:
        item.is_settled = True
    assert table.is_abandoned()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.data())
def test_of_calls_side_by_side_none_is_lost_or_counted_twice(places: int, data: st.DataObject) -> None:
    """Batches are put in, answered in parts and in any order, until the worker dies in the turn of one of them."""
    table: InFlight[Item] = InFlight(1, places)
    left: dict[int, list[Item]] = {}
    for _ in range(data.draw(st.integers(0, 12))):
        is_answer = data.draw(st.booleans())
        if left and is_answer:
            number = data.draw(st.sampled_from(sorted(left)))
            answered = data.draw(st.lists(st.sampled_from(left[number]), unique_by=id, min_size=1))
            tickets = table.complete(number, answered, 0.001, 1.0)[0]
            assert tickets == answered
            left[number] = [item for item in left[number] if item not in answered]
            if not left[number]:
                del left[number]
        else:
            items = [Item(next(IDS)) for _ in range(data.draw(st.integers(1, 3)))]
            left[table.put(items, PID, 0.0)[3]] = items
        assert len(table) == table.calls == sum(map(len, left.values()))
    outstanding = [item for items in left.values() for item in items]
    current = data.draw(st.sampled_from([0, *[item.id for item in outstanding]]))
    begun, in_hand, untouched = table.take_all(current)
    assert sorted(item.id for item in begun + in_hand) == sorted(item.id for item in outstanding)
    assert not untouched
    assert [item.id for item in in_hand] == ([current] if current else [item.id for item in outstanding])
    assert len(table) == table.calls == 0


def test_numbers_fit_into_four_bytes() -> None:
    table: InFlight[Item] = InFlight(BATCH)
    table._number = NUMBERS - 2
    assert [put(table)[1] for _ in range(3)] == [NUMBERS - 1, 0, 1]


def test_the_pace_of_calls_side_by_side_is_the_time_until_a_place_is_free() -> None:
    """The worker measures only the turns of a generator, without those of the others and without its pauses."""
    table: InFlight[Item] = InFlight(1, places=2)
    (first, number), (second, other) = put_one(table, 1.0), put_one(table, 2.0)
    assert (table.prefetch, table.calls) == (2, 2)
    assert table.complete(other, [second], 0.01, 5.0) == ([second], 0.01, 1, 1)
    assert table.pace == 3.0
    assert table.complete(number, [first], 0.01, 9.0) == ([first], 0.01, 1, 1)
    assert table.pace == 3.0 + (8.0 - 3.0) / 8


def put_one(table: InFlight[Item], now: float) -> tuple[Item, int]:
    item = Item(next(IDS))
    return item, table.put([item], PID, now)[3]
