"""When a worker should be free, and whether it is quick, as its link tells; without a process."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.wire.frames import PORTION
from fastapi_aqueduct.engine.workers.handle import LEAD, WorkerLink

from .links import hand_over, ready_link, work


@pytest.fixture
def link() -> Iterator[WorkerLink]:
    with ready_link() as link:
        yield link


def test_a_worker_whose_calls_take_a_steady_time_tells_when_it_is_free(link: WorkerLink) -> None:
    work(link, *[0.030, 0.031] * 20)
    assert link.free_at() == math.inf  # it is
    hand_over(link, 7.0)
    assert link.free_at() == pytest.approx(7.030, abs=0.001)
    hand_over(link, 7.0)
    assert link.free_at() == math.inf  # it has its next batch already


@pytest.mark.parametrize("durations", [[0.030], [0.010, 0.050] * 20, [LEAD / 4] * 40])
def test_others_do_not(link: WorkerLink, durations: list[float]) -> None:
    work(link, *durations)
    hand_over(link, 7.0)
    assert link.free_at() == math.inf


def test_one_that_takes_no_more_tasks_does_not(link: WorkerLink) -> None:
    work(link, *[0.030] * 40)
    hand_over(link, 7.0)
    link.state = WorkerState.RETIRING
    assert link.free_at() == math.inf


def test_a_worker_is_quick_whose_work_is_brief(link: WorkerLink) -> None:
    assert not link.is_quick(0.0)  # nobody knows yet
    work(link, *[PORTION / 2] * 40)
    assert link.is_quick(7.0)
    work(link, 50 * PORTION)
    assert not link.is_quick(7.0)


def test_tasks_that_expired_on_the_way_say_nothing_about_a_worker(link: WorkerLink) -> None:
    hand_over(link, 0.0)
    link.take_back(0.0, 0.0, has_run=False)
    assert link.room() == 1
    assert not link.is_quick(0.0)
    work(link, *[0.030] * 40)
    hand_over(link, 0.0)
    link.take_back(0.0, 0.0, has_run=False)
    hand_over(link, 7.0)
    assert link.free_at() == pytest.approx(7.030, abs=0.001)


def test_it_is_not_while_it_is_stuck(link: WorkerLink) -> None:
    work(link, *[PORTION / 2] * 40)
    hand_over(link, 7.0)
    assert link.is_quick(7.0 + LEAD / 2)
    assert not link.is_quick(7.0 + 2 * LEAD)
    link.take_back(PORTION / 2, 7.0 + 2 * LEAD)
    assert link.is_quick(8.0)


def test_nor_when_it_takes_no_more_tasks(link: WorkerLink) -> None:
    work(link, *[PORTION / 2] * 40)
    link.state = WorkerState.RETIRING
    assert not link.is_quick(7.0)
