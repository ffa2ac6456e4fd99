"""The way of a task through the steps."""

from __future__ import annotations

import pytest

from fastapi_aqueduct.engine.route import FINISHED, START, Route

from ..handlers import Job


def is_large(task: Job) -> bool:
    return bool(task.number > 10)


def always(task: Job) -> bool:
    return True


def test_a_task_visits_the_steps_whose_conditions_it_meets() -> None:
    route = Route([is_large, always, is_large, always])
    assert [route.next(step, Job(number=1)) for step in (START, 0, 1, 2, 3)] == [1, 1, 3, 3, FINISHED]
    assert [route.next(step, Job(number=11)) for step in (START, 0, 1, 2, 3)] == [0, 1, 2, 3, FINISHED]
    assert Route([is_large]).next(START, Job(number=1)) == FINISHED


@pytest.mark.parametrize(("step", "following", "leads"), [(0, 1, True), (0, 2, True), (1, 1, False), (1, 3, False)])
def test_a_task_goes_to_later_steps_only(step: int, following: int, leads: bool) -> None:
    assert Route([always] * 3).leads(step, following) == leads
