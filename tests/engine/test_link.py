"""When a worker should be free, as its link tells; without a process."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from fastapi_aqueduct.engine.link import LEAD, WorkerLink
from fastapi_aqueduct.engine.statistics import WorkerState


class Waiting:
    """What is handed over; the link only notes in it that it was."""

    is_waiting = True
    holder = 0
    sent_at = 0.0


@pytest.fixture
def link() -> Iterator[WorkerLink]:
    ours, theirs = socket.socketpair()
    with theirs:
        made = WorkerLink(0, "step", 1, ours, 4, None, lambda region: 0.0, lambda *args: None, lambda link: None)
        made.state = WorkerState.READY
        yield made
        made.close()


def work(link: WorkerLink, *durations: float) -> None:
    for duration in durations:
        hand_over(link, 0.0)
        link.take_back(duration, 0.0)


def hand_over(link: WorkerLink, now: float) -> None:
    link.put(cast(Any, [Waiting() for _ in range(4)]), now)


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
