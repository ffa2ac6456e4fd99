"""Which workers of a step share its work; without a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fastapi_aqueduct import FlowStep
from fastapi_aqueduct.engine.scheduling.stage import StepDesk
from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.wire.frames import PORTION
from fastapi_aqueduct.engine.workers.handle import LEAD
from fastapi_aqueduct.engine.workers.process import available_cores

from ..handlers import Each
from .links import BATCH, hand_over, ready_link, work

BRIEF_WORK = [PORTION / 2] * 40

CORES = available_cores()
NOW = 7.0


@pytest.fixture
def desk() -> Iterator[StepDesk]:
    """A step with two workers more than there are cores."""
    with ExitStack() as stack:
        desk = StepDesk("step", FlowStep(Each(), nprocs=CORES + 2, batch_size=BATCH), queue_size=100, priorities=1)
        desk.links = [stack.enter_context(ready_link()) for _ in range(CORES + 2)]
        yield desk


def test_brief_work_is_for_as_many_workers_as_there_are_cores(desk: StepDesk) -> None:
    for link in desk.links:
        work(link, *BRIEF_WORK)
    assert desk.on_duty(NOW) == desk.links[:CORES]


def test_all_share_work_of_which_nothing_is_known_or_that_is_not_brief(desk: StepDesk) -> None:
    assert desk.on_duty(NOW) == desk.links
    for link in desk.links:
        work(link, *[2 * PORTION] * 40)
    assert desk.on_duty(NOW) == desk.links


def test_a_worker_that_is_stuck_starting_or_slow_is_not_counted(desk: StepDesk) -> None:
    for link in desk.links:
        work(link, *BRIEF_WORK)
    hand_over(desk.links[0], NOW)
    assert desk.on_duty(NOW + LEAD / 2) == desk.links[:CORES]
    assert desk.on_duty(NOW + 2 * LEAD) == desk.links[: CORES + 1]
    desk.links[CORES].state = WorkerState.STARTING
    assert desk.on_duty(NOW + 2 * LEAD) == desk.links
    desk.links[CORES].state = WorkerState.READY
    desk.links[0].take_back(1.0, NOW + 2 * LEAD)
    assert desk.on_duty(NOW + 3 * LEAD) == desk.links[: CORES + 1]  # no longer stuck, but slow


def test_a_step_with_no_more_workers_than_cores_uses_them_all() -> None:
    with ExitStack() as stack:
        desk = StepDesk("step", FlowStep(Each(), nprocs=CORES), queue_size=100, priorities=1)
        desk.links = [stack.enter_context(ready_link()) for _ in range(CORES)]
        for link in desk.links:
            work(link, *BRIEF_WORK)
        assert desk.on_duty(NOW) == desk.links
