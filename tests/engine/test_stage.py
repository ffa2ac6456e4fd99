"""Which workers of a step share its work; without a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fastapi_aqueduct import FlowStep
from fastapi_aqueduct.engine.scheduling.stage import Stage
from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.wire.frames import FRAME_BUDGET
from fastapi_aqueduct.engine.workers.handle import PREFETCH
from fastapi_aqueduct.engine.workers.pool import Pool
from fastapi_aqueduct.engine.workers.process import available_cores

from ..handlers import Each
from .handles import BATCH, hand_over, ready_worker, work

BRIEF_WORK = [FRAME_BUDGET / 2] * 40

CORES = available_cores()
NOW = 7.0


def make_stage(step: FlowStep) -> Stage:
    return Stage(Pool(0, "step", step), queue_size=100, priorities=1)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A step with two workers more than there are cores."""
    with ExitStack() as stack:
        stage = make_stage(FlowStep(Each(), nprocs=CORES + 2, batch_size=BATCH))
        stage.workers += [stack.enter_context(ready_worker()) for _ in range(CORES + 2)]
        yield stage


def test_brief_work_is_for_as_many_workers_as_there_are_cores(stage: Stage) -> None:
    for worker in stage.workers:
        work(worker, *BRIEF_WORK)
    assert stage.on_duty(NOW) == stage.workers[:CORES]


def test_all_share_work_of_which_nothing_is_known_or_that_is_not_brief(stage: Stage) -> None:
    assert stage.on_duty(NOW) == stage.workers
    for worker in stage.workers:
        work(worker, *[2 * FRAME_BUDGET] * 40)
    assert stage.on_duty(NOW) == stage.workers


def test_a_worker_that_is_stuck_starting_or_slow_is_not_counted(stage: Stage) -> None:
    for worker in stage.workers:
        work(worker, *BRIEF_WORK)
    hand_over(stage.workers[0], NOW)
    assert stage.on_duty(NOW + PREFETCH / 2) == stage.workers[:CORES]
    assert stage.on_duty(NOW + 2 * PREFETCH) == stage.workers[: CORES + 1]
    stage.workers[CORES].state = WorkerState.STARTING
    assert stage.on_duty(NOW + 2 * PREFETCH) == stage.workers
    stage.workers[CORES].state = WorkerState.READY
    stage.workers[0].take_back(1.0, NOW + 2 * PREFETCH)
    assert stage.on_duty(NOW + 3 * PREFETCH) == stage.workers[: CORES + 1]  # no longer stuck, but slow


def test_a_step_with_no_more_workers_than_cores_uses_them_all() -> None:
    with ExitStack() as stack:
        stage = make_stage(FlowStep(Each(), nprocs=CORES))
        stage.workers += [stack.enter_context(ready_worker()) for _ in range(CORES)]
        for worker in stage.workers:
            work(worker, *BRIEF_WORK)
        assert stage.on_duty(NOW) == stage.workers
