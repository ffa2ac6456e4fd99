"""When a step counts as broken and when it is given up: the rules with times made up, and what the statistics say."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.engine import restart
from fastapi_aqueduct.engine.restart import GIVE_UP_AFTER, MAX_DEATHS, WINDOW, RestartBudget, RestartPolicy

from ..handlers import Job
from ..support import DEADLINE, eventually, outcome, pids, running
from .handlers import SlowToLoad
from .support import complete


def test_each_delay_lies_between_half_and_the_whole_of_its_limit() -> None:
    for _ in range(200):
        policy = RestartPolicy(base=0.5, cap=30.0)
        for most in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
            assert most / 2 <= policy.delay(0.0) <= most
        assert 15.0 <= policy.longest_delay() <= 30.0


def test_a_worker_that_lived_less_than_healthy_does_not_reset_the_series() -> None:
    policy = RestartPolicy(base=1.0, cap=64.0, healthy_after=10.0)
    for most in (1.0, 2.0, 4.0):
        assert most / 2 <= policy.delay(9.9) <= most
    assert policy.delay(10.0) <= 1.0


def test_a_budget_is_spent_by_one_death_too_many_and_recovers_when_they_are_long_ago() -> None:
    budget = RestartBudget(0.0)
    for number in range(MAX_DEATHS):
        budget.note_death(float(number))
        assert not budget.is_spent(float(number))
    budget.note_death(MAX_DEATHS)
    assert budget.is_spent(MAX_DEATHS)
    assert budget.is_spent(WINDOW - 0.1)
    assert not budget.is_spent(WINDOW)  # the first death no longer counts
    budget.note_death(WINDOW + 0.5)
    assert budget.is_spent(WINDOW + 0.5)


@pytest.mark.parametrize(("load", "window"), [(0.2, WINDOW), (60.0, WINDOW), (100.0, 500.0)])
def test_the_window_is_longer_for_models_that_load_slowly(load: float, window: float) -> None:
    budget = RestartBudget(0.0)
    budget.note_load(load)
    for _ in range(MAX_DEATHS + 1):
        budget.note_death(0.0)
    assert budget.is_spent(window - 1)
    assert not budget.is_spent(window)


def test_a_step_is_given_up_when_it_had_no_ready_worker_for_too_long() -> None:
    budget = RestartBudget(100.0)
    assert not budget.is_given_up(100.0 + GIVE_UP_AFTER - 1)
    assert budget.is_given_up(100.0 + GIVE_UP_AFTER)  # never had one
    budget.note_ready(500.0, True)
    assert not budget.is_given_up(10_000.0)
    budget.note_ready(20_000.0, False)
    budget.note_ready(20_100.0, False)  # the first time counts
    assert not budget.is_given_up(20_000.0 + GIVE_UP_AFTER - 1)
    assert budget.is_given_up(20_000.0 + GIVE_UP_AFTER)
    budget.note_ready(21_000.0, True)
    assert not budget.is_given_up(21_000.0)


async def test_the_statistics_tell_ready_broken_and_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the probes say follows from these, row by row."""
    monkeypatch.setattr(restart, "MAX_DEATHS", 1)
    slow = tmp_path / "slow"
    async with running(Flow(FlowStep(SlowToLoad(slow)))) as flow:

        def row() -> tuple[int, bool, bool, bool]:
            step = flow.statistics().steps[0]
            return step.ready_workers, step.is_broken, step.is_given_up, step.expected_wait > 0

        assert row() == (1, False, False, False)
        slow.touch()
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: not pids(flow))
        assert row() == (0, False, False, True)
        monkeypatch.setattr(restart, "GIVE_UP_AFTER", 0.0)
        assert row() == (0, False, True, True)
        slow.unlink()
        await complete(flow, 1)
        assert row() == (1, False, False, False)
        monkeypatch.undo()
        monkeypatch.setattr(restart, "MAX_DEATHS", 1)
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: not pids(flow))
        assert row() == (0, True, False, True)
        # A broken step goes on at the longest interval, and says so.
        wait = flow.statistics().steps[0].expected_wait
        assert 10 < wait < 32
        refused = await outcome(flow.process(Job(), DEADLINE / 4))
        assert refused.retry_after == pytest.approx(wait, abs=2.0)
