"""The way of a task through the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastapi_aqueduct import Cost, FlowStep
from fastapi_aqueduct.engine.marks import NO_MARKS, Marker, Marks, canonical, make_markers
from fastapi_aqueduct.engine.route import FINISHED, START, BranchedRoute, Route, make_route
from fastapi_aqueduct.engine.shape import describe, names_of, rest_of, restrict

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


SHAPE = ("a", (("b",), ("c", (("d",), ("e", "f")), "g")), (("h",), ("k",)), "m")
A, B, C, D, E, F, G, H, K, M = range(10)


def fork(*steps: int) -> int:
    return ~sum(1 << step for step in steps)


def route_of(**conditions: Callable[[Any], Any]) -> BranchedRoute:
    names = list(names_of(SHAPE))
    return BranchedRoute([conditions.get(name, always) for name in names], (), SHAPE)


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("a", "a > [b | c > [d | e > f] > g] > [h | k] > m"),
        ("b", "[b | c > [d | e > f] > g] > [h | k] > m"),
        ("c", "[c > [d | e > f] > g | b] > [h | k] > m"),
        ("f", "[[f | d] > g | b] > [h | k] > m"),
        ("g", "[g | b] > [h | k] > m"),
        ("k", "[k | h] > m"),
        ("m", "m"),
        ("n", ""),
    ],
)
def test_the_rest_of_a_shape_has_the_other_branches_as_a_whole(name: str, rest: str) -> None:
    assert describe(rest_of(SHAPE, name)) == rest


@pytest.mark.parametrize(
    ("names", "left"),
    [
        ("abcdefghkm", "a > [b | c > [d | e > f] > g] > [h | k] > m"),
        ("bdfm", "[b | [d | f]] > m"),
        ("cefk", "c > e > f > k"),
        ("bg", "[b | g]"),
        ("", ""),
    ],
)
def test_a_shape_with_some_of_its_steps(names: str, left: str) -> None:
    assert describe(restrict(SHAPE, names)) == left


def test_a_shape_in_words() -> None:
    assert describe(SHAPE) == "a > [b | c > [d | e > f] > g] > [h | k] > m"
    assert route_of().whole.name == describe(SHAPE)


def test_a_flow_without_groups_has_the_plain_route() -> None:
    assert type(make_route([always, always], (), ("a", "b"))) is Route
    assert type(make_route([always, always])) is Route
    assert type(make_route([always] * 10, (), SHAPE)) is BranchedRoute


def test_a_group_is_entered_at_the_first_steps_whose_conditions_are_met() -> None:
    small, large = Job(number=1), Job(number=11)
    route = route_of(b=is_large, c=is_large, d=is_large, e=is_large, h=is_large, k=is_large)
    assert route.next(START, small) == A
    assert route.next(A, large) == fork(B, C)
    assert route.next(A, small) == fork(F)
    assert route.next(C, large) == fork(D, E)
    assert route.next(F, small) == route.next(D, large) == FINISHED
    assert route.next(B, large) == FINISHED
    skipping = route_of(**dict.fromkeys("bcdefghk", is_large))
    assert skipping.next(A, small) == M
    assert route_of(**dict.fromkeys("bcdefghkm", is_large)).next(A, small) == FINISHED


def test_the_branches_of_a_group_begin_where_the_task_enters_them() -> None:
    route = route_of()
    found = route.split(route.after(A), fork(B, D, F))
    assert found is not None
    group, starts = found
    assert [(branch.name, start) for branch, start in starts] == [("b", B), ("c > [d | e > f] > g", fork(D, F))]
    inner = route.split(starts[1][0].sequence, starts[1][1])
    assert inner is not None
    assert [(branch.name, start) for branch, start in inner[1]] == [("d", D), ("e > f", F)]
    assert route.begin(route.after(group)) == fork(H, K)
    assert route.begin(route.after(inner[0])) == G


@pytest.mark.parametrize("steps", [(B, M), (B, C, D), (D, G), (H, B), (E, F), (A,), (M,), ()])
def test_a_group_cannot_be_entered_at_other_steps(steps: tuple[int, ...]) -> None:
    route = route_of()
    assert route.split(route.after(A), fork(*steps)) is None


def test_a_step_leads_to_others_of_its_sequence_only() -> None:
    route = route_of()
    assert [step for step in range(10) if route.leads(A, step)] == [M]
    assert [step for step in range(10) if route.leads(C, step)] == [G]
    assert [step for step in range(10) if route.leads(E, step)] == [F]
    assert not any(route.leads(B, step) or route.leads(M, step) for step in range(10))


def test_what_a_task_has_before_it_and_behind_it() -> None:
    route = route_of()
    assert route.first == [A]
    assert [list(route.behind[step]) for step in (A, B, D, E, H, M)] == [
        [B, C, D, E, F, G, H, K, M],
        [H, K, M],
        [G, H, K, M],
        [F, G, H, K, M],
        [M],
        [],
    ]
    assert [list(route.before[step]) for step in (A, B, D, G, K)] == [
        [],
        [A],
        [A, C],
        [A, C, D, E, F],
        [A, B, C, D, E, F, G],
    ]
    assert make_route([always] * 3).behind == [range(1, 3), range(2, 3), range(3, 3)]


def test_only_behind_a_group_the_task_is_not_unpacked() -> None:
    route = route_of()
    assert [step for step in range(10) if route.is_closed(step)] == [G, H, K, M]
    assert [step for step in range(10) if route.sends_patches(step)] == [B, C, D, E, F, G, H, K]


def test_a_group_takes_as_long_as_its_longest_branch() -> None:
    assert route_of().expected_time([1, 9, 2, 3, 1, 1, 1, 5, 4, 1]) == 1 + 9 + 5 + 1
    assert route_of().expected_time([1, 1, 2, 3, 2, 2, 1, 5, 4, 1]) == 1 + (2 + 4 + 1) + 5 + 1


def test_the_marks_of_the_first_steps_of_a_group_travel_together() -> None:
    markers = [Marker(name, "number") if name in "bdm" else None for name in names_of(SHAPE)]
    route = BranchedRoute([always] * 10, markers, SHAPE)
    marks = Marks.unpack(route.marks(fork(B, C), Job(number=1)))
    assert marks.of_branch(B) == Marks.unpack(route.marks(M, Job(number=1))) != NO_MARKS
    assert marks.of_branch(C) == NO_MARKS == Marks.unpack(route.marks(C, Job(number=1)))
    assert [route.marks(step, Job()) for step in (FINISHED, A, fork(C, H))] == [b""] * 3
