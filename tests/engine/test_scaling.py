"""How many workers an elastic step should have: the policy alone, and what comes of it in simulated traffic."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_aqueduct import ConfigurationError
from fastapi_aqueduct.autoscale import Autoscale
from fastapi_aqueduct.engine.workers.scaling import Demand, ScalingPolicy

IDLE = Demand(busy=0, waiting=0, waited=0, pace=1.0, has_worked=False, ready=1, coming=0, load_time=5.0)
ELASTIC = Autoscale(0, 8, idle_after=300.0, up_wait=0.5)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ((-1, 4), {}, "minimum >= 0, got -1"),
        ((0, 0), {}, "maximum >= 1, got 0"),
        ((3, 2), {}, "maximum >= 3, got 2"),
        ((0, 2), {"idle_after": 0}, "idle_after > 0, got 0"),
        ((0, 2), {"up_wait": -1}, "up_wait >= 0, got -1"),
    ],
)
def test_numbers_that_cannot_work_are_refused(values: tuple[int, int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Autoscale(*values, **options)


# The policy

amounts = st.integers(0, 40).map(lambda number: number / 4)
demands = st.builds(
    Demand,
    busy=amounts,
    waiting=st.just(0.0) | amounts,
    waited=st.just(0.0) | amounts,
    pace=st.sampled_from([0.0, 0.001, 0.1, 2.0, 30.0]),
    has_worked=st.booleans(),
    ready=st.integers(0, 9),
    coming=st.just(0) | st.integers(0, 3),
    load_time=st.sampled_from([0.1, 3.0, 60.0]),
)
autoscales = st.tuples(st.integers(0, 4), st.integers(0, 6)).map(
    lambda pair: Autoscale(pair[0], max(1, sum(pair)), idle_after=10.0, up_wait=0.5)
)


@given(autoscales, st.lists(st.tuples(st.sampled_from([0.1, 1.0, 4.0, 20.0]), demands), max_size=40))
def test_no_history_leads_out_of_the_limits_or_down_before_its_time(
    autoscale: Autoscale, history: list[tuple[float, Demand]]
) -> None:
    policy, now = ScalingPolicy(autoscale, 0.0), 0.0
    last_reason = 0.0  # when the present number was last needed, or just reached
    before = policy.wanted
    for elapsed, demand in history:
        now += elapsed
        wanted = policy.observe(demand, now)
        assert autoscale.minimum <= wanted <= autoscale.maximum
        if wanted > before:
            assert demand.waiting
        if wanted < before:
            assert not demand.waiting
            assert not demand.coming
            assert now - last_reason > autoscale.idle_after
        enough = max(demand.workers_for(autoscale.up_wait), 1) if demand.has_worked else 0
        if wanted > before or demand.coming or min(enough, before) == before:
            last_reason = now
        before = wanted


def test_it_starts_with_one_worker_that_sleeps_when_there_was_no_task() -> None:
    policy = ScalingPolicy(ELASTIC, 0.0)
    assert [policy.observe(IDLE, now) for now in (1.0, 300.0, 300.1)] == [1, 1, 0]
    assert policy.keep(1, 1000.0) == 1
    assert [policy.observe(IDLE, now) for now in (1300.0, 1300.1)] == [1, 0]
    resident = ScalingPolicy(Autoscale(2, 4), 0.0)
    assert (resident.wanted, resident.observe(IDLE, 1e6)) == (2, 2)


def test_a_task_now_and_then_keeps_the_last_worker() -> None:
    policy = ScalingPolicy(ELASTIC, 0.0)
    for now in range(0, 6000, 50):
        policy.observe(IDLE._replace(has_worked=now % 200 == 0), float(now))
        assert policy.wanted == 1


def test_a_task_wakes_the_step_and_the_end_of_an_old_one_does_not() -> None:
    policy = ScalingPolicy(ELASTIC, 0.0)
    policy.set(0, 0.0)
    assert policy.observe(IDLE._replace(ready=0, has_worked=True), 1.0) == 0
    assert policy.observe(IDLE._replace(ready=0, has_worked=True, waiting=1), 2.0) == 1


def test_a_worker_that_loads_for_longer_than_idle_after_is_waited_for() -> None:
    policy = ScalingPolicy(ELASTIC, 0.0)
    policy.set(0, 0.0)
    policy.keep(1, 0.0)
    loading = IDLE._replace(ready=0, coming=1)
    assert {policy.observe(loading, float(now)) for now in range(1000)} == {1}
    assert [policy.observe(IDLE, now) for now in (1200.0, 1299.5)] == [1, 0]


def test_a_number_set_by_hand_holds_for_idle_after_and_rises_with_need() -> None:
    policy = ScalingPolicy(ELASTIC, 0.0)
    assert policy.set(5, 10.0) == 5
    assert [policy.observe(IDLE._replace(ready=5), now) for now in (200.0, 310.0, 310.1)] == [5, 5, 0]
    assert policy.set(99, 400.0) == ELASTIC.maximum
    policy.set(2, 500.0)
    full = IDLE._replace(busy=2, waiting=2, waited=0.6, has_worked=True, ready=2)
    assert policy.observe(full, 500.1) == 3


@pytest.mark.parametrize(("waiting", "load", "wanted"), [(1, 60.0, 2), (20, 60.0, 2), (20, 0.1, 8), (20, 4.0, 5)])
def test_a_queue_has_as_many_workers_added_as_it_will_outlast_their_load(
    waiting: int, load: float, wanted: int
) -> None:
    policy = ScalingPolicy(ELASTIC, 0.0)
    assert policy.observe(Demand(1, waiting, 0.0, 1.0, True, 1, 0, load), 1.0) == wanted


def test_one_call_that_never_ends_needs_one_worker() -> None:
    policy = ScalingPolicy(ELASTIC, 0.0)
    policy.set(2, 0.0)
    stream = IDLE._replace(busy=1, has_worked=True, ready=2)
    assert [policy.observe(stream, float(now)) for now in range(0, 310, 10)] == [2] * 31
    assert policy.observe(stream, 310.0) == 1


def test_tasks_that_wait_for_a_batch_or_for_a_later_step_have_no_worker_added() -> None:
    policy = ScalingPolicy(ELASTIC, 0.0)
    assert policy.observe(Demand(0, 1, 10.0, 1.0, True, 1, 0, 1.0), 1.0) == 1


# Simulated traffic


@dataclass
class Step:
    """A step with a queue, whose policy is asked four times a second."""

    autoscale: Autoscale
    load: float
    now: float = 0.0
    idle: int = 0
    busy: int = 0
    loading: int = 0
    queue: deque[tuple[float, float]] = field(default_factory=deque)
    waits: list[float] = field(default_factory=list)
    history: list[tuple[float, int]] = field(default_factory=list)
    worker_seconds: float = 0.0

    def run(self, calls: Iterable[tuple[float, float]], until: float) -> None:
        """Run calls, each with its arrival and its duration."""
        policy = ScalingPolicy(self.autoscale, 0.0)
        self.idle = policy.wanted
        self.history.append((0.0, policy.wanted))
        arrivals = iter(calls)
        order = itertools.count()
        events: list[tuple[float, int, str, float]] = [(0.25, next(order), "look", 0.0)]

        def expect() -> None:
            for arrived_at, duration in itertools.islice(arrivals, 1):
                heapq.heappush(events, (arrived_at, next(order), "arrive", duration))

        pace: float | None = None
        has_worked = False
        expect()
        while events and events[0][0] < until:
            at, _, what, value = heapq.heappop(events)
            self.worker_seconds += (at - self.now) * (self.idle + self.busy + self.loading)
            self.now = at
            if what == "arrive":
                has_worked = True
                self.queue.append((at, value))
                if policy.wanted == 0:
                    policy.keep(1, at)
                expect()
            elif what == "end":
                self.busy -= 1
                self.idle += 1
                pace = value if pace is None else pace + (value - pace) / 8
            elif what == "ready":
                self.loading -= 1
                self.idle += 1
            else:
                heapq.heappush(events, (at + 0.25, next(order), "look", 0.0))
                waited = at - self.queue[0][0] if self.queue else 0.0
                policy.observe(
                    Demand(
                        *(self.busy, len(self.queue), waited, pace or 0.002, has_worked or self.busy > 0),
                        *(self.idle + self.busy, max(0, policy.wanted - self.idle - self.busy), self.load),
                    ),
                    at,
                )
                has_worked = False
            if policy.wanted != self.history[-1][1]:
                self.history.append((at, policy.wanted))
            while self.loading + self.idle + self.busy < policy.wanted:
                self.loading += 1
                heapq.heappush(events, (at + self.load, next(order), "ready", 0.0))
            while self.idle and self.loading + self.idle + self.busy > policy.wanted:
                self.idle -= 1
            while self.queue and self.idle:
                arrived_at, duration = self.queue.popleft()
                self.waits.append(at - arrived_at)
                self.idle -= 1
                self.busy += 1
                heapq.heappush(events, (at + duration, next(order), "end", duration))

    @property
    def rises(self) -> int:
        return sum(after > before for (_, before), (_, after) in itertools.pairwise(self.history))

    @property
    def falls(self) -> int:
        return sum(after < before for (_, before), (_, after) in itertools.pairwise(self.history))

    @property
    def most(self) -> int:
        return max(number for _, number in self.history)

    def late(self, seconds: float) -> float:
        """Return the share of the calls that have waited longer."""
        return mean(wait > seconds for wait in self.waits)


def poisson(rate: float, duration: float, until: float, seed: int = 1) -> Iterator[tuple[float, float]]:
    """Calls that arrive at random and take a random time."""
    chance, now = random.Random(seed), 0.0
    while (now := now + chance.expovariate(rate)) < until:
        yield now, chance.uniform(0.5, 1.5) * duration


@pytest.mark.parametrize(("load", "rises", "most"), [(0.3, 2, 8), (5.0, 2, 8), (60.0, 1, 2)])
def test_a_burst_has_workers_added_once_and_is_followed_by_sleep(load: float, rises: int, most: int) -> None:
    step = Step(ELASTIC, load)
    step.run([(10.0, 1.0)] * 60, until=700.0)
    assert len(step.waits) == 60
    assert (step.rises, step.most, step.history[-1][1]) == (rises, most, 0)
    assert step.history[-1][0] >= 10.0 + max(step.waits) + 1.0 + ELASTIC.idle_after


def test_the_curve_of_a_day_is_followed_and_the_night_is_slept_through() -> None:
    """Up to two calls a second at noon, none at night; less than half of the workers' time that eight would cost."""
    chance, day, calls = random.Random(1), 4 * 3600.0, []
    now = 0.0
    while (now := now + chance.expovariate(2.0)) < day:
        if chance.random() < -math.cos(2 * math.pi * now / day):  # the light of the day
            calls.append((now, chance.uniform(0.5, 1.5)))
    step = Step(ELASTIC, 20.0)
    step.run(calls, until=day)
    assert step.late(0.5) < 0.05
    assert step.worker_seconds < 0.4 * 8 * day
    assert sum(number == 0 for _, number in step.history) == 2  # before the morning and after the evening
    assert step.rises + step.falls < 40


@pytest.mark.parametrize(("rate", "duration"), [(0.5, 1.0), (2.0, 1.0), (100.0, 0.03), (0.05, 10.0)])
@pytest.mark.parametrize("load", [5.0, 60.0])
def test_steady_traffic_causes_no_flapping(rate: float, duration: float, load: float) -> None:
    """Random arrivals; the last case is that of few and long calls, where the number of those present varies most."""
    until = min(6000.0, 100_000 / rate)
    step = Step(ELASTIC, load)
    step.run(poisson(rate, duration, until), until)
    settled = [(at, number) for at, number in step.history if at > 600.0]
    assert len(settled) <= 2 * (until - 600.0) / ELASTIC.idle_after + 1
    falls = [at for (_, before), (at, after) in itertools.pairwise(step.history) if after < before]
    rises = [at for (_, before), (at, after) in itertools.pairwise(step.history) if after > before]
    for fall in falls:
        assert not [at for at in rises if fall - ELASTIC.idle_after < at < fall]
    if load == 5.0:
        assert step.late(0.5) < 0.05


def test_an_overload_has_workers_added_that_load_together_where_one_after_the_other_took_seven_loads() -> None:
    step = Step(ELASTIC, 60.0)
    step.run(poisson(7.0, 1.0, 1200.0), until=1200.0)
    reached = next(at for at, number in step.history if number == 8)
    assert reached < 150.0
