"""Steps with keys and costs in simulated traffic: only the scheduler is real, not the clock and the workers."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import mean, quantiles
from typing import Any, cast

import pytest

from fastapi_aqueduct import Cost, FlowStep
from fastapi_aqueduct.engine.marks import Marks
from fastapi_aqueduct.engine.route import Route
from fastapi_aqueduct.engine.scheduling.batch_delay import BatchDelay
from fastapi_aqueduct.engine.scheduling.lane_delay import MOST_GONE, LaneDelay
from fastapi_aqueduct.engine.scheduling.lane_queue import LaneQueue
from fastapi_aqueduct.engine.scheduling.lane_stage import make_stage
from fastapi_aqueduct.engine.scheduling.scheduler import Assignments, Scheduler
from fastapi_aqueduct.engine.scheduling.split import Split
from fastapi_aqueduct.engine.scheduling.ticket import Ticket
from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.wire.frames import Batch, Envelope
from fastapi_aqueduct.engine.workers.in_flight import InFlight
from fastapi_aqueduct.engine.workers.pool import Pool
from fastapi_aqueduct.engine.workers.spec import WorkerSpec

from ..handlers import Each, Job

FIXED, EACH = 0.010, 0.001


@dataclass(frozen=True)
class Arrival:
    """A task that comes.

    Attributes:
        at: When.
        key: Its key.
        cost: Its cost.
    """

    at: float
    key: str = ""
    cost: int = 0


@dataclass(eq=False)
class Worker:
    """What a scheduler looks at in the handle of a worker."""

    step: int
    in_flight: InFlight[Ticket]
    pid: int
    state: WorkerState = WorkerState.READY
    name: str = "step"


@dataclass
class Traffic:
    """A step whose workers answer in simulated time.

    Args:
        step: The step.
        seconds: Of a call with one task less than it has.

    Attributes:
        waits: Seconds from the arrival of each task until it was sent, by key.
        batches: The tasks of each batch.
        costs: What each worker had in hand after it was sent a batch, and the number of its tasks.
    """

    step: FlowStep
    each: float = EACH
    waits: dict[str, list[float]] = field(default_factory=dict)
    batches: list[list[Ticket]] = field(default_factory=list)
    costs: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        step = self.step
        pool = Pool(WorkerSpec(0, "step", step, cast(Any, None), b""), [])
        for pid in range(1, 1 + step.nprocs):
            cast(Any, pool.workers).append(Worker(0, InFlight(step.call_size, step.places), pid))
        self.stage = make_stage(pool, 100_000, 1)
        self.scheduler = Scheduler([self.stage], [], 100_000, Route([bool]))
        self.now = 0.0
        self._ids = itertools.count(1)
        self._events: list[tuple[float, int, Any]] = []
        self._order = itertools.count()
        self._timer_at = self._due_at = math.inf
        self._callers = random.Random(7)

    def at(self, time: float, what: Any) -> None:
        heapq.heappush(self._events, (time, next(self._order), what))

    def run(self, arrivals: Iterator[Arrival], duration: float, comes_back: bool = False) -> Traffic:
        """Have tasks arrive, or callers who come back when they have their answers, and serve them."""
        for arrival in itertools.takewhile(lambda arrival: arrival.at < duration, arrivals):
            self.at(arrival.at, arrival)
        while self._events and self._events[0][0] < duration:
            self.now, _, what = heapq.heappop(self._events)
            if what is None:
                if self.now != self._timer_at:
                    continue  # it was set anew
                self._timer_at = self._due_at = math.inf
            if isinstance(what, Arrival):
                self.push(what.key, what.cost)
            elif what is not None:
                worker, tickets, number = what
                self._answer(worker, tickets, number, comes_back)
            self.note(self.scheduler.assign(self.now))
            due_at = self.scheduler.due_at()
            if due_at != self._due_at:
                self._due_at, self._timer_at = due_at, math.inf
                if due_at < math.inf:
                    # As event loops do.
                    self._timer_at = self.now + max(math.ceil((due_at - self.now) * 1000), 1) / 1000
                    self.at(self._timer_at, None)
        return self

    def push(self, key: str, cost: int = 0) -> Ticket:
        marks = Marks(key.encode(), cost)
        ticket = Ticket(next(self._ids), Job(), None, Encoded(b"", b"", ()), 0, math.inf, self.now, marks)
        ticket.arrived_at = self.now
        self.stage.queue.push(ticket)
        return ticket

    def note(self, assignments: Assignments) -> None:
        for worker, batches in assignments.items():
            for tickets, _, _, number in batches:
                self.batches.append(tickets)
                for ticket in tickets:
                    self.waits.setdefault(ticket.marks.batch_key.decode(), []).append(self.now - ticket.arrived_at)
                in_hand = list(worker.in_flight.tickets())
                self.costs.append((sum(ticket.marks.cost for ticket in in_hand), len(in_hand)))
                self.at(self.now + FIXED + self.each * len(tickets), (worker, tickets, number))

    def _answer(self, worker: Worker, tickets: list[Ticket], number: int, comes_back: bool) -> None:
        duration = FIXED + self.each * len(tickets)
        worker.in_flight.complete(number, tickets, duration, self.now)
        if self.stage.batch_delay is not None:
            self.stage.batch_delay.note_call(len(tickets), duration)
        back = self.now
        for ticket in tickets if comes_back else ():
            back += 0.0003 * (0.5 + self._callers.random())
            self.at(back, Arrival(back, ticket.marks.batch_key.decode()))

    @property
    def sizes(self) -> list[int]:
        """The sizes of the batches; the first part does not count."""
        return [len(batch) for batch in self.batches[len(self.batches) // 10 :]]


def poisson(rates: dict[str, float], seed: int = 3, costs: tuple[int, int] = (0, 0)) -> Iterator[Arrival]:
    chance, now = random.Random(seed), 0.0
    while True:
        now += chance.expovariate(sum(rates.values()))
        (key,) = chance.choices(list(rates), list(rates.values()))
        yield Arrival(now, key, chance.randint(*costs))


def p99(waits: list[float]) -> float:
    return quantiles(waits, n=100)[98]


def keyed(**options: Any) -> FlowStep:
    return FlowStep(Each(print), batch_size=16, batch_key="key", **options)


def test_batches_have_one_key_each() -> None:
    traffic = Traffic(keyed(nprocs=2)).run(poisson({"a": 300, "b": 200, "c": 10}), 10)
    assert all(len({ticket.marks.batch_key for ticket in batch}) == 1 for batch in traffic.batches)
    assert max(traffic.sizes) > 1


@pytest.mark.parametrize("batch_timeout", [0.0, 0.005, "auto"])
@pytest.mark.parametrize("rate", [200, 400])
def test_a_hot_key_does_not_starve_others(batch_timeout: Any, rate: float) -> None:
    """The others wait for the call under way and for those of keys whose tasks were there before, as in one queue."""
    rates = {"hot": float(rate), "warm": 10.0, "cold": 1.0}
    traffic = Traffic(keyed(batch_timeout=batch_timeout)).run(poisson(rates), 60)
    hot = p99(traffic.waits["hot"])
    for key in ("warm", "cold"):
        assert max(traffic.waits[key]) < hot + 3 * (FIXED + 16 * EACH)


@pytest.mark.parametrize("batch_timeout", [0.0, 0.02, "auto"])
def test_nothing_waits_forever_where_more_come_than_can_be_served(batch_timeout: Any) -> None:
    """A key whose batches are full all the time passes others only until their own wait is over."""
    traffic = Traffic(keyed(batch_timeout=batch_timeout)).run(poisson({"hot": 1200, "cold": 5}), 5)
    for first, second in itertools.pairwise(traffic.batches):
        assert second[0].arrived_at >= first[0].arrived_at - 0.02 - FIXED - 16 * EACH
    assert mean(traffic.waits["cold"]) <= mean(traffic.waits["hot"]) + 0.02


@pytest.mark.parametrize("seconds", [0.05, 0.3])
def test_the_fixed_timeout_counts_for_each_key(seconds: float) -> None:
    traffic = Traffic(keyed(nprocs=4, batch_timeout=seconds)).run(poisson({"a": 60, "b": 5}), 20)
    whole = [batch for batch in traffic.batches if len(batch) < 16]
    assert whole
    for batch in whole:
        assert seconds - 1e-9 <= batch[0].sent_at - batch[0].arrived_at <= seconds + 0.03


@pytest.mark.parametrize("callers", [2, 4, 8])
def test_callers_of_one_key_who_come_back_together_are_waited_for(callers: int) -> None:
    starts = [Arrival(0.001 * number, "a") for number in range(callers)]
    waiting, at_once = (
        Traffic(keyed(batch_timeout=rule)).run(iter(starts), 20, comes_back=True) for rule in ("auto", 0.0)
    )
    assert mean(waiting.sizes) >= 0.95 * callers > 1.15 * mean(at_once.sizes)


@pytest.mark.parametrize("every", [1, 6])
def test_new_keys_learn_from_others_whether_a_second_task_comes(every: int) -> None:
    """Each key has one batch, and of every six such batches one gets a second task in time."""
    traffic = Traffic(keyed(batch_timeout="auto"))
    lanes, delay = cast(LaneQueue[Ticket], traffic.stage.queue), cast(LaneDelay, traffic.stage.batch_delay)
    for _ in range(40):
        delay.note_call(1, FIXED)
    for number in range(200):
        traffic.push(str(number))
        delay.due_at(1, False, 1.0, traffic.now)
        traffic.now += 0.002
        if number % every == 0:
            traffic.push(str(number))
            delay.due_at(2, False, 1.0, traffic.now)
        lanes.pop_batch(traffic.now)
        delay.note_sent(0, traffic.now)
        traffic.now += 1.0
    traffic.push("new")
    waits = delay.due_at(1, False, 1.0, traffic.now) > traffic.now
    assert waits == (every == 1)


def test_random_arrivals_of_many_keys_are_hardly_ever_waited_for() -> None:
    rates = {str(number): 6.0 for number in range(30)}
    waiting, at_once = (
        Traffic(keyed(batch_timeout=rule), each=0.0).run(poisson(rates), 60) for rule in ("auto", 0.0)
    )
    found = [mean(itertools.chain(*traffic.waits.values())) for traffic in (waiting, at_once)]
    assert found[0] <= 1.1 * found[1]


def test_keys_that_never_come_again_leave_a_few_traces_and_no_lane() -> None:
    arrivals = (Arrival(number / 80, str(number)) for number in itertools.count())
    traffic = Traffic(keyed(batch_timeout="auto"), each=0.0).run(arrivals, 30)
    assert len(traffic.batches) > 2000
    lanes, delay = cast(LaneQueue[Ticket], traffic.stage.queue), cast(LaneDelay, traffic.stage.batch_delay)
    assert len(lanes.lanes) == lanes.count <= 1
    assert len(delay._gone) <= MOST_GONE
    assert all(gap == math.inf for gaps in delay._gaps.values() for gap in gaps)


def test_what_arrives_while_no_worker_is_idle_is_noted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for all keys of which tasks wait, each time that one more arrives."""
    traffic = Traffic(keyed(batch_timeout="auto"))
    delay = cast(LaneDelay, traffic.stage.batch_delay)
    noted: list[int] = []
    monkeypatch.setattr(BatchDelay, "note_busy", lambda _, count, now: noted.append(count))
    for number in range(100):
        traffic.push(str(number % 50))
        delay.note_busy(number, 0.0)
    assert noted == [1] * 50 + [2] * 50


def test_the_cost_of_a_batch_stays_within_the_limit() -> None:
    step = FlowStep(Each(print), batch_size=16, batch_cost=Cost("cost", limit=100), nprocs=2)
    traffic = Traffic(step).run(poisson({"": 400}, costs=(1, 130)), 10)
    sums = [sum(ticket.marks.cost for ticket in batch) for batch in traffic.batches]
    assert all(total <= 100 or len(batch) == 1 for total, batch in zip(sums, traffic.batches, strict=True))
    assert max(sums) > 100 and max(traffic.sizes) > 2
    order = [ticket.id for batch in traffic.batches for ticket in batch]
    assert order == sorted(order)  # a cheap one does not pass


@pytest.mark.parametrize("nprocs", [1, 3])
def test_the_tasks_in_a_continuous_call_cost_no_more_than_the_limit(nprocs: int) -> None:
    step = FlowStep(Each(print), batch_size=8, continuous=True, batch_cost=Cost("cost", limit=100), nprocs=nprocs)
    traffic = Traffic(step).run(poisson({"": 200.0 * nprocs}, costs=(1, 130)), 10)
    assert all(cost <= 100 or tasks == 1 for cost, tasks in traffic.costs)
    assert max(tasks for _, tasks in traffic.costs) > 2 and max(cost for cost, _ in traffic.costs) > 100
    sent = sorted((ticket.id, ticket.sent_at) for batch in traffic.batches for ticket in batch)
    assert all(first[1] <= second[1] for first, second in itertools.pairwise(sent))


def test_a_canary_gets_no_more_in_a_continuous_call_than_the_limit() -> None:
    step = FlowStep(Each(print), batch_size=8, continuous=True, batch_cost=Cost("cost", limit=100))
    traffic = Traffic(step)
    canary = traffic.stage.split = Split(0.5)
    canary.canary = cast(Any, Worker(0, InFlight(1, 8), 99))
    traffic.run(poisson({"": 300}, costs=(1, 130)), 10)
    assert all(cost <= 100 or tasks == 1 for cost, tasks in traffic.costs)
    given = Counter(ticket.holder for batch in traffic.batches for ticket in batch)
    assert 0.4 < given[99] / given.total() < 0.6


def test_an_idle_canary_with_tasks_in_hand_is_asked_for_room() -> None:
    traffic = Traffic(FlowStep(Each(print), batch_size=8, continuous=True, batch_cost=Cost("cost", limit=100)))
    split = traffic.stage.split = Split(0.9)
    split.canary = cast(Any, Worker(0, InFlight(1, 8), 99))
    for cost in (90, 90):
        ticket = traffic.push("", cost)
        traffic.stage.queue.pop_batch(0.0)
        traffic.note(traffic.scheduler.assign_at_once(ticket, 0.0))
    assert all(cost <= 100 for cost, _ in traffic.costs)


def test_an_answer_of_a_part_makes_room_at_once() -> None:
    step = FlowStep(Each(print), batch_size=8, continuous=True, batch_cost=Cost("cost", limit=100))
    traffic = Traffic(step)
    first, second = traffic.push("", 60), traffic.push("", 60)
    ((worker, [(tickets, _, _, number)]),) = traffic.scheduler.assign(0.0).items()
    assert tickets == [first] and traffic.scheduler.assign(0.0) == {}
    answer = Batch([Envelope(first.id, 0.0, -1, 0, first.content)])
    worker.in_flight.complete(number, answer.envelopes, 0.01, 0.0)
    ((_, [(tickets, *_)]),) = traffic.scheduler.assign(0.0).items()
    assert tickets == [second]
