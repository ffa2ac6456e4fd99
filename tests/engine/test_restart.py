"""When the next worker is launched: the rules alone, with times made up."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.engine.workers.restart import LOADS_PER_WINDOW, Life, RestartBudget, RestartPolicy

TIMING = Timing()
QUICK = Life(age=10.0, lifetime=9.8, load=0.2, has_answered=True, is_repeated=False)
SLOW = QUICK._replace(load=20.0, age=30.0)
SERIES = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def lies_within(delays: list[float], expected: list[float]) -> bool:
    return all(most / 2 <= delay <= most for delay, most in zip(delays, expected, strict=True))


def test_failures_to_become_ready_wait_longer_and_longer_up_to_the_most() -> None:
    policy = RestartPolicy()
    delays = [policy.after_failure() for _ in SERIES]
    assert lies_within(delays, SERIES), delays


def test_a_worker_that_was_ready_ends_the_series_of_failures() -> None:
    policy = RestartPolicy()
    for _ in range(6):
        policy.after_failure()
    policy.after_death(QUICK)
    assert policy.after_failure() <= 0.5


def test_thousands_of_failures_still_give_a_delay() -> None:
    policy = RestartPolicy()
    assert all(policy.after_failure() <= 30.0 for _ in range(5000))
    assert all(policy.after_death(SLOW._replace(lifetime=1.0)) <= 30.0 for _ in range(5000))


def test_workers_that_failed_together_do_not_start_together() -> None:
    assert len({RestartPolicy().after_failure() for _ in range(20)}) > 10


def test_a_worker_that_loads_quickly_is_replaced_at_once_whatever_the_deaths() -> None:
    policy = RestartPolicy()
    assert [policy.after_death(QUICK) for _ in range(1000)] == [0.0] * 1000
    idle = QUICK._replace(has_answered=False, lifetime=TIMING.quick_load, age=TIMING.quick_load + 0.2)
    assert [policy.after_death(idle) for _ in range(1000)] == [0.0] * 1000


@pytest.mark.parametrize(("has_answered", "most"), [(True, 2.1), (False, 0.35)])
def test_a_hot_loop_of_restarts_is_impossible(has_answered: bool, most: float) -> None:
    """A worker that dies as soon as it is ready is launched twice a second, and less often if it never answers."""
    policy = RestartPolicy()
    clock, launches, load = 0.0, 0, 0.05
    while clock < 600.0:
        launches += 1
        clock += load
        clock += policy.after_death(Life(load, 0.0, load, has_answered, is_repeated=False))
    assert launches / 600.0 <= most


def test_deaths_with_the_same_task_in_hand_count_once() -> None:
    """So one poisonous request, which kills two workers, costs no more than one death."""
    repeated = {"is_repeated": True}
    once, twice = RestartPolicy(), RestartPolicy()
    short: dict[str, Any] = {"age": 0.2, "lifetime": 0.0, "has_answered": False}
    for life in (QUICK._replace(**short), QUICK._replace(**short)):
        once.after_death(life)
        twice.after_death(life)
        twice.after_death(life._replace(**repeated))
    assert once.after_death(QUICK._replace(**short)) == twice.after_death(QUICK._replace(**short))
    slow = RestartPolicy()
    delays = []
    for _ in range(4):
        delays.append(slow.after_death(SLOW._replace(lifetime=1.0)))
        slow.after_death(SLOW._replace(lifetime=1.0, **repeated))
    assert lies_within(delays, SERIES[:4]), delays


def test_where_a_load_is_dear_early_deaths_wait_longer_and_longer() -> None:
    policy = RestartPolicy()
    delays = [policy.after_death(SLOW._replace(lifetime=59.0)) for _ in SERIES]
    assert lies_within(delays, SERIES), delays
    assert policy.after_death(SLOW._replace(lifetime=60.0)) <= 0.5


def test_a_poisonous_request_every_25_seconds_costs_a_step_two_loads_each() -> None:
    policy, load = RestartPolicy(), 0.3
    for _ in range(100):
        assert policy.after_death(Life(25.0, 24.7, load, True, is_repeated=False)) == 0.0
        assert policy.after_death(Life(load, 0.0, load, False, is_repeated=True)) <= TIMING.longest_spacing / 4 - load


# The budget of a step


@pytest.mark.parametrize("note", ["note_death", "note_failure"])
def test_a_budget_is_spent_by_one_death_too_many_and_recovers_when_they_are_long_ago(note: str) -> None:
    budget = RestartBudget(0.0)
    for number in range(TIMING.max_deaths):
        getattr(budget, note)(float(number))
        assert not budget.is_spent(float(number))
    getattr(budget, note)(float(TIMING.max_deaths))
    assert budget.is_spent(TIMING.max_deaths)
    assert budget.is_spent(TIMING.death_window - 0.1)
    assert not budget.is_spent(TIMING.death_window)  # the first death no longer counts
    getattr(budget, note)(TIMING.death_window + 0.5)
    assert budget.is_spent(TIMING.death_window + 0.5)


def test_a_load_ends_the_failures_and_not_the_deaths() -> None:
    budget = RestartBudget(0.0, timing=Timing(max_deaths=2))
    for _ in range(3):
        budget.note_failure(1.0)
    assert budget.is_spent(1.0)
    budget.note_load(1.0)
    assert not budget.is_spent(1.0)
    for _ in range(3):
        budget.note_death(1.0)
    budget.note_load(1.0)
    assert budget.is_spent(1.0)


@pytest.mark.parametrize("load", [0.2, 60.0, 100.0])
def test_the_window_is_longer_for_models_that_load_slowly(load: float) -> None:
    window = max(TIMING.death_window, LOADS_PER_WINDOW * load)
    budget = RestartBudget(0.0)
    budget.note_load(load)
    for _ in range(TIMING.max_deaths + 1):
        budget.note_death(0.0)
    assert budget.is_spent(window - 1)
    assert not budget.is_spent(window)


def test_a_step_is_given_up_when_it_had_no_ready_worker_for_too_long() -> None:
    budget, long = RestartBudget(100.0), TIMING.give_up_after
    assert not budget.is_given_up(100.0 + long - 1)
    assert budget.is_given_up(100.0 + long)  # never had one
    budget.note_ready(500.0, True)
    assert not budget.is_given_up(10_000.0)
    budget.note_ready(20_000.0, False)
    budget.note_ready(20_100.0, False)  # the first time counts
    assert not budget.is_given_up(20_000.0 + long - 1)
    assert budget.is_given_up(20_000.0 + long)
    budget.note_ready(21_000.0, True)
    assert not budget.is_given_up(21_000.0)
