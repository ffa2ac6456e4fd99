"""How long a batch waits for company: the rule alone, and what comes of it in simulated traffic. A clock of our own."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import mean, median, quantiles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.engine.scheduling.batch_delay import DOUBT, LEAST_WAIT, WINDOW, BatchDelay, CallTime, best_wait
from fastapi_aqueduct.exceptions import ConfigurationError

from .. import handlers
from ..handlers import Job, Whole
from ..support import forked, running

# Exact in binary, so that sums are exact as well and equal things are equal.
seconds = st.integers(0, 100).map(lambda number: number / 1024)
FIXED, EACH, BATCH = 0.010, 0.001, 16


# The rule


@given(st.lists(seconds, max_size=WINDOW), seconds, st.integers(1, 64))
def test_a_wait_never_costs_more_than_it_can_gain(gaps: list[float], gain: float, cost: int) -> None:
    assert 0.0 <= best_wait(gaps, gain, cost) * cost <= gain * (1 + 1e-9)


@given(st.lists(seconds, max_size=WINDOW), seconds, st.integers(1, 64))
def test_one_wait_in_vain_more_never_makes_it_longer(gaps: list[float], gain: float, cost: int) -> None:
    assert best_wait([*gaps, math.inf], gain, cost) <= best_wait(gaps, gain, cost)


@given(st.lists(seconds.map(lambda gap: gap + 0.2), max_size=WINDOW), st.integers(1, 64))
def test_who_always_came_too_late_is_not_waited_for(gaps: list[float], cost: int) -> None:
    assert best_wait(gaps, 0.2, cost) == 0.0


def test_a_few_who_came_at_once_are_no_proof_and_many_are() -> None:
    assert best_wait([0.002], 0.010, 3) == 0.0
    assert best_wait([0.002] * WINDOW, 0.010, 3) == 0.003
    assert best_wait([0.002] * WINDOW + [1.0] * 10 * DOUBT, 0.010, 3) == 0.0


def test_the_fixed_part_of_a_call_is_told_from_the_part_of_each_task() -> None:
    call_time = CallTime()
    for size in [1, 3, 2, 8, 5] * 20:
        call_time.note(size, 0.010 + 0.002 * size)
    assert call_time.fixed == pytest.approx(0.010, rel=0.1)


@given(st.lists(st.tuples(st.integers(1, 32), seconds), min_size=1, max_size=50))
def test_the_fixed_part_lies_within_the_time_of_the_calls(calls: list[tuple[int, float]]) -> None:
    call_time = CallTime()
    for size, duration in calls:
        call_time.note(size, duration)
    assert 0.0 <= call_time.fixed <= max(duration for _, duration in calls) + 1e-9


def patient(fixed: float = FIXED) -> BatchDelay:
    made = BatchDelay(BATCH)
    for _ in range(8):
        made.note_call(4, fixed)
    return made


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "busy", "take"]), st.integers(1, 20), seconds, st.booleans())),
    st.sampled_from([1.0, 0.5]),
)
def test_no_batch_is_held_longer_than_a_call_costs_and_a_full_one_not_at_all(
    course: list[tuple[str, int, float, bool]], share: float
) -> None:
    patience = patient()
    now, idle_since = 0.0, None
    for action, count, pause, is_expected in course:
        now += pause / 16
        if action == "take":
            patience.note_sent(0, now)
            idle_since = None
        elif action == "busy" and idle_since is None:
            patience.note_busy(count, now)
        elif action == "ask":
            idle_since = now if idle_since is None else idle_since
            due_at = patience.due_at(count, is_expected, share, now)
            assert due_at <= max(now, idle_since + FIXED * share + 1e-9)
            if count >= BATCH:
                assert due_at <= now


@given(st.lists(st.tuples(st.integers(1, 20), seconds, st.booleans())))
def test_there_is_no_wait_while_another_worker_is_idle(course: list[tuple[int, float, bool]]) -> None:
    patience, now = patient(), 0.0
    for count, pause, is_expected in course:
        now += pause
        assert patience.due_at(count, is_expected, 0.0, now) <= now
        patience.note_sent(0, now)


def test_a_batch_waits_when_others_are_on_the_way_and_goes_when_not() -> None:
    patience, now = patient(), 0.0
    for _ in range(WINDOW):
        for is_expected, gap in ((True, 0.002), (False, 0.5)):
            patience.due_at(1, is_expected, 1.0, now)
            patience.note_sent(0, now)
            now += gap
            patience.note_busy(1, now)
            patience.note_sent(0, now)
            now += 1.0
    assert patience.due_at(1, True, 1.0, now) == pytest.approx(now + 0.003)
    patience.note_sent(0, now)
    assert patience.due_at(1, False, 1.0, now + 1.0) == now + 1.0


def test_cheap_calls_and_calls_without_a_fixed_part_are_not_worth_a_wait() -> None:
    cheap, linear, single = BatchDelay(BATCH), BatchDelay(BATCH), BatchDelay(1)
    for size in [1, 2, 5, 9] * 30:
        cheap.note_call(size, LEAST_WAIT / 2)
        linear.note_call(size, 0.010 * size)
        single.note_call(1, 0.010)
    assert not cheap.is_worthwhile
    assert not single.is_worthwhile
    assert linear._call_time.fixed < 0.002


# In simulated traffic

Arrivals = Iterator[float]
Rule = Callable[["Line", float], float]


@dataclass
class Line:
    """What waits for the worker of a simulation."""

    queue: deque[float] = field(default_factory=deque)
    patience: BatchDelay = field(default_factory=lambda: BatchDelay(BATCH))


@dataclass
class Outcome:
    """What became of the tasks of a simulation; the first part of it does not count."""

    latencies: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return mean(self.latencies)

    @property
    def median(self) -> float:
        return quantiles(self.latencies, n=2)[0]

    @property
    def p99(self) -> float:
        return quantiles(self.latencies, n=100)[98]


def auto(line: Line, now: float) -> float:
    patience = line.patience
    return patience.due_at(len(line.queue), False, 1.0, now) if patience.is_worthwhile else now


def fixed(seconds: float) -> Rule:
    return lambda line, now: now if len(line.queue) >= BATCH else line.queue[0] + seconds


def simulate(rule: Rule, arrivals: Arrivals, callers: int = 0, duration: float = 40.0) -> Outcome:
    """Have one worker serve tasks that arrive at given times, or of callers who go on when they have their answers."""
    chance = random.Random(7)
    line, outcome, order = Line(), Outcome(), itertools.count()
    events: list[tuple[float, int, str, list[float]]] = []

    def at(time: float, kind: str, batch: list[float] = []) -> None:  # noqa: B006  # never changed
        heapq.heappush(events, (time, next(order), kind, batch))

    for time in arrivals:
        if time > duration:
            break
        at(time, "arrival")
    busy = False
    while events and events[0][0] < duration:
        now, _, kind, batch = heapq.heappop(events)
        if kind == "arrival":
            line.queue.append(now)
        elif kind == "answer":
            busy = False
            line.patience.note_call(len(batch), FIXED + EACH * len(batch))
            if now > duration / 10:
                outcome.sizes.append(len(batch))
                outcome.latencies += [now - time for time in batch]
            back = now
            for _ in batch if callers else ():
                back += 0.0003 * (0.5 + chance.random())  # one after the other they get their answers and come back
                at(back, "arrival")
        if not line.queue:
            continue
        if busy:
            line.patience.note_busy(len(line.queue), now)
            continue
        due_at = rule(line, now)
        if due_at > now:
            at(now + max(math.ceil((due_at - now) * 1000), 1) / 1000, "timer")  # as event loops do
            continue
        taken = [line.queue.popleft() for _ in range(min(BATCH, len(line.queue)))]
        line.patience.note_sent(len(line.queue), now)
        busy = True
        at(now + FIXED + EACH * len(taken), "answer", taken)
    return outcome


def poisson(rate: float, seed: int = 3) -> Arrivals:
    chance, now = random.Random(seed), 0.0
    while True:
        now += chance.expovariate(rate)
        yield now


def bursts(rate: float, most: int) -> Arrivals:
    chance = random.Random(5)
    for start in poisson(rate):
        for number in range(chance.randint(1, most)):
            yield start + 0.0003 * number


def bimodal(short: float, long: float) -> Arrivals:
    chance, now = random.Random(9), 0.0
    while True:
        now += chance.expovariate(1 / (short if chance.random() < 0.75 else long))
        yield now


@pytest.mark.parametrize("callers", [1, 2, 4, 15, 16, 17, 64])
def test_callers_who_come_back_together_are_served_together(callers: int) -> None:
    starts = [0.001 * number for number in range(callers)]
    waiting = simulate(auto, iter(starts), callers)
    ideal = min(callers, BATCH)
    assert mean(waiting.sizes) >= 0.98 * ideal
    for other in (fixed(0.0), fixed(0.010)):
        rival = simulate(other, iter(starts), callers)
        assert len(waiting.latencies) >= 0.995 * len(rival.latencies)
        assert waiting.mean <= 1.005 * rival.mean
        if callers in (2, 4, 15, 16):
            assert len(waiting.latencies) >= 1.15 * len(rival.latencies)


@pytest.mark.parametrize("rate", [20, 50, 100, 150, 300, 500])
def test_tasks_that_arrive_at_random_are_hardly_ever_waited_for(rate: float) -> None:
    waiting, at_once, ten = (simulate(rule, poisson(rate)) for rule in (auto, fixed(0.0), fixed(0.010)))
    assert waiting.mean <= 1.02 * min(at_once.mean, ten.mean)
    assert waiting.p99 <= 1.02 * min(at_once.p99, ten.p99)
    assert waiting.median <= 1.02 * ten.median
    assert waiting.median <= at_once.median + LEAST_WAIT


@pytest.mark.parametrize(("rate", "most"), [(20, 8), (40, 8), (20, 16), (60, 4)])
def test_a_burst_goes_in_one_batch_without_waiting_for_the_next(rate: float, most: int) -> None:
    waiting, at_once, ten = (simulate(rule, bursts(rate, most)) for rule in (auto, fixed(0.0), fixed(0.010)))
    assert waiting.mean <= 0.95 * min(at_once.mean, ten.mean)
    assert waiting.p99 <= 1.05 * min(at_once.p99, ten.p99)


@pytest.mark.parametrize(("short", "long"), [(0.0005, 0.05), (0.001, 0.03), (0.002, 0.1)])
def test_gaps_of_two_kinds_are_told_apart(short: float, long: float) -> None:
    waiting, at_once, ten = (simulate(rule, bimodal(short, long)) for rule in (auto, fixed(0.0), fixed(0.010)))
    assert waiting.mean <= 1.01 * min(at_once.mean, ten.mean)
    assert waiting.p99 <= 1.05 * min(at_once.p99, ten.p99)


def test_traffic_that_changes_is_learned_anew() -> None:
    together = [0.5 * number + 0.0003 * place for number in range(60) for place in range(4)]
    changing = itertools.chain(together, (30.0 + time for time in poisson(150)))
    assert simulate(auto, changing, duration=70.0).p99 <= 1.05 * simulate(auto, poisson(150), duration=70.0).p99


# With real workers


class Street:
    """Where callers who have their answers come back, each in a turn of the event loop of its own."""

    def __init__(self, flow: Flow) -> None:
        self.tasks: list[Any] = []
        self._flow = flow
        self._door = asyncio.Lock()

    async def walk(self, times: int) -> None:
        for _ in range(times):
            self.tasks.append(await self._flow.process(Job(number=1), 60))
            async with self._door:
                await asyncio.sleep(0)


async def test_callers_who_come_back_one_by_one_are_waited_for() -> None:
    step = FlowStep(Whole(handlers.tell_batch_in_a_while), batch_size=8, batch_timeout="auto")
    async with running(forked(step)) as flow:
        street = Street(flow)
        await asyncio.gather(*(street.walk(40) for _ in range(3)))
        sizes = [task.metrics.steps[0].batch_size for task in street.tasks]
        assert median(sizes[60:]) == 3
        assert set(sizes) <= {1, 2, 3}


async def test_a_lone_caller_does_not_wait() -> None:
    step = FlowStep(Whole(handlers.tell_batch_in_a_while), batch_size=8, batch_timeout="auto")
    async with running(forked(step)) as flow:
        street = Street(flow)
        await street.walk(30)
        measured = flow.statistics().steps[0].histograms
        assert measured is not None and measured.batch_delay is not None
        assert 2 * measured.batch_delay.counts[0] > measured.batch_delay.count == 30


async def test_a_step_without_waiting_callers_works_as_without_a_wait() -> None:
    step = FlowStep(Whole(handlers.tell_batch), batch_size=3, batch_timeout="auto")
    async with running(forked(step)) as flow:
        tasks = await asyncio.gather(*(flow.process(Job(number=number), 30) for number in range(7)))
        assert sorted(len(task.batch) for task in tasks) == [1, 3, 3, 3, 3, 3, 3]


def test_another_word_than_auto_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="batch_timeout, got 'never'"):
        FlowStep(Whole(handlers.tell_batch), batch_timeout="never")  # type: ignore[arg-type]
