"""What a worker has in hand and how fast it works on that, as its in-flight table tells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from fastapi_aqueduct.engine.workers.in_flight import PREFETCH, InFlight

BATCH = 4
"""The most tasks in one call."""

PID = 4321


@dataclass
class Item:
    """What is in a table."""

    id: int = 0
    is_waiting: bool = True
    is_settled: bool = False
    holder: int = 0
    sent_at: float = 0.0


@pytest.fixture
def table() -> InFlight[Item]:
    return InFlight(BATCH)


def put(table: InFlight[Item], now: float = 0.0) -> None:
    table.put([Item() for _ in range(BATCH)], PID, now)


def work(table: InFlight[Item], *durations: float) -> None:
    """Put batches one after the other; each is answered at once, with its duration in seconds."""
    for duration in durations:
        put(table)
        table.complete(duration, 0.0)


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
    put(table)
    table.complete(0.0, 0.0, has_run=False)
    assert table.free_calls == 1
    assert table.calls_per_batch == 1
    work(table, *[0.030] * 40)
    put(table)
    table.complete(0.0, 0.0, has_run=False)
    put(table, 7.0)
    assert table.free_at() == pytest.approx(7.030, abs=0.001)
