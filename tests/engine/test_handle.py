"""When a worker should be free, as its handle tells; without a process."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.workers.handle import PREFETCH, WorkerHandle

from .handles import hand_over, ready_worker, work


@pytest.fixture
def worker() -> Iterator[WorkerHandle]:
    with ready_worker() as worker:
        yield worker


def test_a_worker_whose_calls_take_a_steady_time_tells_when_it_is_free(worker: WorkerHandle) -> None:
    work(worker, *[0.030, 0.031] * 20)
    assert worker.free_at() == math.inf  # it is
    hand_over(worker, 7.0)
    assert worker.free_at() == pytest.approx(7.030, abs=0.001)
    hand_over(worker, 7.0)
    assert worker.free_at() == math.inf  # it has its next batch already


@pytest.mark.parametrize("durations", [[0.030], [0.010, 0.050] * 20, [PREFETCH / 4] * 40])
def test_others_do_not(worker: WorkerHandle, durations: list[float]) -> None:
    work(worker, *durations)
    hand_over(worker, 7.0)
    assert worker.free_at() == math.inf


def test_one_that_takes_no_more_tasks_does_not(worker: WorkerHandle) -> None:
    work(worker, *[0.030] * 40)
    hand_over(worker, 7.0)
    worker.state = WorkerState.RETIRING
    assert worker.free_at() == math.inf


def test_tasks_that_expired_on_the_way_say_nothing_about_a_worker(worker: WorkerHandle) -> None:
    hand_over(worker, 0.0)
    worker.take_back(0.0, 0.0, has_run=False)
    assert worker.room() == 1
    assert worker.calls_per_batch() == 1
    work(worker, *[0.030] * 40)
    hand_over(worker, 0.0)
    worker.take_back(0.0, 0.0, has_run=False)
    hand_over(worker, 7.0)
    assert worker.free_at() == pytest.approx(7.030, abs=0.001)
