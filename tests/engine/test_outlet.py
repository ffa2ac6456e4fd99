"""The window of a stream, on both of its ends."""

from __future__ import annotations

import pytest

from fastapi_aqueduct.engine.memory.layout import Ref
from fastapi_aqueduct.engine.scheduling.outlet import Outlet
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.wire.window import GRANT, ITEM_WEIGHT, WINDOW, Windows, item_weight

TASK = Encoded(b"", b"task", (Ref(0, 1 << 20),))


def item(*blocks: Ref) -> Encoded:
    return Encoded(b"", b"item", blocks)


def test_an_item_weighs_its_bytes_and_the_memory_that_only_it_holds() -> None:
    assert item_weight(item(), TASK) == ITEM_WEIGHT + 4
    assert item_weight(item(Ref(1 << 30, 500)), TASK) == ITEM_WEIGHT + 504
    assert item_weight(item(Ref(1 << 30, 500), *TASK.blocks), TASK) == ITEM_WEIGHT + 504


def test_a_stream_pauses_when_its_window_is_used_up_and_goes_on_with_a_grant() -> None:
    windows = Windows()
    count = 0
    while not windows.paused:
        windows.spend(7, ITEM_WEIGHT)
        windows.spend(8, 1)
        count += 1
    assert (count, windows.paused) == (256, {7})
    windows.grant(7, GRANT)
    assert not windows.paused


def test_one_item_may_be_larger_than_a_window() -> None:
    windows = Windows()
    windows.spend(7, 3 * WINDOW)
    windows.grant(7, WINDOW)
    assert windows.paused == {7}
    windows.grant(7, 2 * WINDOW)
    assert not windows.paused


def test_a_grant_for_items_of_an_earlier_step_makes_no_window_larger() -> None:
    windows = Windows()
    windows.spend(7, 1)
    windows.grant(7, 5 * WINDOW)
    windows.spend(7, WINDOW)
    assert windows.paused == {7}


def test_a_grant_that_crosses_the_answer_is_forgotten() -> None:
    windows = Windows()
    windows.spend(7, WINDOW)
    windows.close(7)
    windows.grant(7, WINDOW)
    windows.spend(7, WINDOW)  # a task that is tried again begins with a whole window
    assert windows.paused == {7}
    windows.close(7)
    windows.close(8)
    assert not windows.paused


@pytest.mark.parametrize(("weight", "count"), [(ITEM_WEIGHT, 4096), (1 << 20, 64), (1 << 30, 2)])
def test_an_outlet_is_over_with_too_many_items_and_never_with_one(weight: int, count: int) -> None:
    outlet = Outlet(1.0)
    for _ in range(count):
        assert not outlet.is_over
        outlet.put(item(), weight, 0.0)
    assert outlet.is_over
    outlet.pop(0.0)
    assert not outlet.is_over
    assert outlet.consumed == weight


def test_the_clock_of_an_outlet_stands_still_while_an_item_waits() -> None:
    outlet = Outlet(2.0)
    outlet.put(item(), 1, 10.0)
    assert outlet.due_at(50.0) == 52.0
    outlet.pop(60.0)
    assert outlet.due_at(61.0) == 62.0


async def test_an_error_is_given_once() -> None:
    outlet = Outlet(1.0)
    error = ValueError("late")
    outlet.set_exception(error)
    await outlet.wait()
    assert outlet.done()
    assert outlet.pop_error() is error
    assert outlet.pop_error() is None
