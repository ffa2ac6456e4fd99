"""The way of a task through the steps."""

from __future__ import annotations

import pytest

from fastapi_aqueduct import Cost, FlowStep
from fastapi_aqueduct.engine.marks import NO_MARKS, Marks, canonical, make_markers
from fastapi_aqueduct.engine.route import FINISHED, START, Route

from ..handlers import Each, Job


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


def test_the_marks_of_a_task_are_those_that_its_next_step_declares() -> None:
    steps = [FlowStep(Each()), FlowStep(Each(), batch_key=is_large, batch_cost=Cost("number", limit=9))]
    route = Route([always] * 2, make_markers((f"step{number}", step) for number, step in enumerate(steps)))
    assert route.has_marks
    assert [route.marks(step, Job(number=11)) for step in (0, FINISHED)] == [b"", b""]
    assert Marks.unpack(route.marks(1, Job(number=11))) == NO_MARKS._replace(batch_key=canonical(True), cost=11)


def test_a_route_of_steps_without_keys_and_costs_has_no_marks() -> None:
    assert not Route([always], make_markers([("double", FlowStep(Each()))])).has_marks
