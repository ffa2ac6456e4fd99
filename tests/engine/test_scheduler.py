"""Which worker gets which tasks, and when: the decisions alone, without a process, a socket or an event loop."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from fastapi_aqueduct import FlowStep
from fastapi_aqueduct.engine.route import Route
from fastapi_aqueduct.engine.scheduling.echoes import ECHO, Echoes
from fastapi_aqueduct.engine.scheduling.meter import Meter
from fastapi_aqueduct.engine.scheduling.scheduler import Assignments, Scheduler
from fastapi_aqueduct.engine.scheduling.stage import Stage
from fastapi_aqueduct.engine.scheduling.ticket import Ticket
from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.workers.in_flight import MAX_PREFETCH, PREFETCH, InFlight
from fastapi_aqueduct.engine.workers.pool import Pool
from fastapi_aqueduct.engine.workers.spec import WorkerSpec

from ..handlers import Each, Job

NOW = 100.0
QUEUE_SIZE = 200

SLOW = 0.1
QUICK = PREFETCH / MAX_PREFETCH / 2


@dataclass(eq=False)
class Worker:
    """What a scheduler looks at in the handle of a worker."""

    step: int
    in_flight: InFlight[Ticket]
    pid: int
    state: WorkerState = WorkerState.READY


@dataclass
class Case:
    """A flow whose workers the test answers for.

    Attributes:
        stages: Its steps.
        arrivals: Bodies that arrive.
    """

    stages: list[Stage]
    arrivals: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.stages, self.arrivals, QUEUE_SIZE, Route([bool] * len(self.stages)))
        self._ids = itertools.count(1)

    def ticket(self, step: int = 0, now: float = NOW) -> Ticket:
        """Make a task that has arrived at a step."""
        ticket = Ticket(next(self._ids), Job(), None, Encoded(b"", b"", ()), 0, math.inf, now)
        ticket.step, ticket.arrived_at = step, now
        return ticket

    def queue(self, count: int, step: int = 0, now: float = NOW) -> list[Ticket]:
        """Put tasks in the queue of a step."""
        tickets = [self.ticket(step, now) for _ in range(count)]
        for ticket in tickets:
            self.stages[step].queue.push(ticket)
        return tickets

    def worker(self, number: int = 0, step: int = 0) -> Worker:
        """Return a worker of a step."""
        return cast(Worker, self.stages[step].workers[number])

    def teach(self, duration: float, step: int = 0) -> None:
        """Let every worker of a step answer batches that take so long."""
        for worker in cast(list[Worker], self.stages[step].workers):
            for _ in range(40):
                tickets = [self.ticket(step)]
                *_, number = worker.in_flight.put(tickets, worker.pid, NOW)
                worker.in_flight.complete(number, tickets, duration, NOW)


def make(*steps: FlowStep) -> Case:
    stages, meter = [], Meter(steps)
    for index, step in enumerate(steps):
        pool = Pool(WorkerSpec(index, f"step{index}", step, cast(Any, None), b""), [])
        workers: list[Any] = pool.workers
        pids = range(1000 * index + 1, 1000 * index + 1 + step.nprocs)
        workers += [Worker(index, InFlight(step.batch_size), pid) for pid in pids]
        stages.append(Stage(pool, QUEUE_SIZE, 1, meter.steps[index]))
    return Case(stages)


def sizes(assignments: Assignments) -> dict[int, list[int]]:
    """Tell how many tasks are in each batch, by process id."""
    return {worker.pid: [len(tickets) for tickets, *_ in batches] for worker, batches in assignments.items()}


def test_an_arrival_goes_to_an_idle_worker_at_once() -> None:
    case = make(FlowStep(Each(print), nprocs=2))
    first, second, third = (case.ticket() for _ in range(3))
    workers = case.stages[0].workers
    assert case.scheduler.assign_at_once(first, NOW) == {workers[0]: [([first], 0.0, 1, 1)]}
    assert case.scheduler.assign_at_once(second, NOW) == {workers[1]: [([second], 0.0, 1, 1)]}
    assert case.scheduler.assign_at_once(third, NOW) == {}
    assert [worker.in_flight.calls for worker in workers] == [1, 1]
    assert (first.holder, second.holder, third.holder) == (1, 2, 0)


def test_it_does_not_where_others_may_join_its_batch() -> None:
    case = make(FlowStep(Each(print), batch_size=2))
    assert case.scheduler.assign_at_once(case.ticket(), NOW) == {}


def test_it_does_not_pass_those_that_wait() -> None:
    case = make(FlowStep(Each(print)))
    case.queue(1)
    assert case.scheduler.assign_at_once(case.ticket(), NOW) == {}


def test_a_slow_worker_gets_one_batch_at_a_time() -> None:
    case = make(FlowStep(Each(print), batch_size=4))
    case.teach(SLOW)
    case.queue(9)
    assert sizes(case.scheduler.assign(NOW)) == {1: [4]}
    assert case.scheduler.assign(NOW) == {}


def test_a_quick_worker_is_fed_ahead() -> None:
    case = make(FlowStep(Each(print)))
    case.teach(QUICK)
    case.queue(MAX_PREFETCH + 1)
    (batches,) = sizes(case.scheduler.assign(NOW)).values()
    assert sum(batches) == MAX_PREFETCH
    assert case.stages[0].queue.count == 1


def test_tasks_are_dealt_out_to_all_workers_and_first_to_those_with_the_fewest_calls() -> None:
    case = make(FlowStep(Each(print), nprocs=3))
    case.teach(QUICK)
    case.worker(0).in_flight.put([case.ticket()], 0, NOW)
    case.queue(5)
    assignments = sizes(case.scheduler.assign(NOW))
    assert sorted(assignments) == [1, 2, 3]
    assert next(iter(assignments)) != 1
    assert sum(map(sum, assignments.values())) == 5


@pytest.mark.parametrize("state", [WorkerState.STARTING, WorkerState.RETIRING, WorkerState.STOPPING])
def test_only_ready_workers_get_tasks(state: WorkerState) -> None:
    case = make(FlowStep(Each(print), nprocs=2))
    case.worker(0).state = state
    case.queue(3)
    assert sizes(case.scheduler.assign(NOW)) == {2: [1]}
    case.worker(1).state = state
    assert case.scheduler.assign_at_once(case.ticket(), NOW) == {}


def test_a_batch_that_is_not_full_waits_for_its_timeout() -> None:
    case = make(FlowStep(Each(print), batch_size=3, batch_timeout=0.5))
    case.queue(2)
    assert case.scheduler.assign(NOW) == {}
    assert case.scheduler.due_at() == NOW + 0.5
    assert sizes(case.scheduler.assign(NOW + 0.5)) == {1: [2]}
    assert case.scheduler.assign(NOW + 0.5) == {}
    assert case.scheduler.due_at() == math.inf


def test_a_full_one_does_not() -> None:
    case = make(FlowStep(Each(print), batch_size=3, batch_timeout=0.5))
    case.queue(3)
    assert sizes(case.scheduler.assign(NOW)) == {1: [3]}


def test_a_full_batch_goes_to_a_worker_of_steady_pace_just_before_it_is_free() -> None:
    case = make(FlowStep(Each(print), batch_size=2))
    case.teach(SLOW)
    case.queue(4)
    assert sizes(case.scheduler.assign(NOW)) == {1: [2]}
    assert case.scheduler.assign(NOW) == {}
    due_at = case.scheduler.due_at()
    assert due_at == pytest.approx(NOW + SLOW - PREFETCH)
    assert sizes(case.scheduler.assign(due_at)) == {1: [2]}


def test_a_worker_that_has_answered_is_refilled_with_a_full_batch() -> None:
    case = make(FlowStep(Each(print), batch_size=2))
    case.teach(SLOW)
    worker = case.stages[0].workers[0]
    case.queue(1)
    assert case.scheduler.refill(worker, NOW) == {}
    case.queue(1)
    assert sizes(case.scheduler.refill(worker, NOW)) == {1: [2]}


def test_a_step_pauses_while_a_later_one_has_all_it_may_hold() -> None:
    case = make(FlowStep(Each(print)), FlowStep(Each(print)))
    case.worker(step=1).state = WorkerState.STARTING
    case.queue(QUEUE_SIZE, step=1)
    case.queue(1)
    assert case.scheduler.assign(NOW) == {}
    assert case.scheduler.assign_at_once(case.ticket(), NOW) == {}
    case.worker(step=1).state = WorkerState.READY
    assert sizes(case.scheduler.assign(NOW)) == {1001: [1], 1: [1]}  # the last step first


@pytest.mark.parametrize("arrivals", [[], ["a body"]])
def test_a_batch_waits_as_has_paid_while_bodies_arrived(arrivals: list[str]) -> None:
    case = make(FlowStep(Each(print), batch_size=4, batch_timeout="auto"))
    delay = case.stages[0].batch_delay
    assert delay is not None
    delay.note_call(1, SLOW)
    for second in range(16):  # whenever one task waited while others were expected, another came 1 ms later
        delay.due_at(1, True, 1.0, second)
        delay.due_at(2, True, 1.0, second + 0.001)
        delay.note_sent(0, second + 0.001)
    case.arrivals += arrivals
    case.queue(1)
    assert sizes(case.scheduler.assign(NOW)) == ({} if arrivals else {1: [1]})
    assert (case.scheduler.due_at() < NOW + SLOW) == bool(arrivals)
    assert sizes(case.scheduler.assign(NOW + SLOW)) == ({1: [1]} if arrivals else {})


def test_the_batch_delay_is_the_time_for_which_the_policy_has_kept_a_worker_idle() -> None:
    case = make(FlowStep(Each(print), batch_size=2, batch_timeout=1.0))
    case.teach(SLOW)
    case.queue(1)
    assert case.scheduler.assign(NOW + 0.3) == {}
    case.queue(1)
    assert sizes(case.scheduler.assign(NOW + 0.5)) == {1: [2]}
    assert delays(case) == [pytest.approx(0.2)]
    case.queue(3)
    assert case.scheduler.assign(NOW + 0.55) == {}  # the worker is busy: no policy holds them back
    in_flight = case.worker().in_flight
    in_flight.complete(1 + 40, next(iter(in_flight._batches.values())), SLOW, NOW + 0.7)
    assert sizes(case.scheduler.assign(NOW + 0.7)) == {1: [2]}
    assert delays(case) == [pytest.approx(0.2), 0.0]


def test_a_batch_delay_begins_with_the_arrival_of_the_oldest_task_that_is_left() -> None:
    case = make(FlowStep(Each(print), batch_size=2, batch_timeout=1.0))
    (cancelled,) = case.queue(1)
    assert case.scheduler.assign(NOW) == {}
    cancelled.is_settled = True
    case.stages[0].queue.discard(cancelled)
    case.queue(2, now=NOW + 10)
    assert sizes(case.scheduler.assign(NOW + 10.1)) == {1: [2]}
    assert delays(case) == [pytest.approx(0.1)]


def delays(case: Case) -> list[float]:
    """Return the batch delays that were measured and are not counted yet."""
    meter = case.stages[0].meter
    assert meter is not None
    return meter.batch_delay.values


# API processes that share a pipeline


def make_shared(duration: float = SLOW, **options: Any) -> tuple[Case, Echoes]:
    """Make a step with batches of four whose answers have just been sent to the API processes 1 and 2."""
    case = make(FlowStep(Each(print), nprocs=2, batch_size=4, **options))
    case.teach(duration)
    echoes = case.scheduler.echoes = Echoes()
    echoes.note_answers(1, NOW)
    echoes.note_answers(2, NOW)
    return case, echoes


def test_a_batch_waits_for_the_callers_of_another_process_that_have_just_got_answers() -> None:
    case, echoes = make_shared()
    case.queue(2)
    echoes.note_tasks(1)
    assert case.scheduler.assign(NOW) == {}
    assert case.scheduler.due_at() == pytest.approx(NOW + ECHO)
    case.queue(2)
    echoes.note_tasks(2)
    assert sizes(case.scheduler.assign(NOW + ECHO / 2)) == {1: [4]}


def test_a_batch_does_not_wait_for_those_who_send_nothing() -> None:
    case, _ = make_shared()
    case.queue(2)
    assert case.scheduler.assign(NOW) == {}
    assert sizes(case.scheduler.assign(NOW + 1.01 * ECHO)) == {1: [2]}


def test_answers_that_go_on_do_not_hold_a_batch_for_ever() -> None:
    case, echoes = make_shared()
    case.queue(2)
    assert case.scheduler.assign(NOW) == {}
    echoes.note_answers(1, NOW + ECHO)
    assert sizes(case.scheduler.assign(NOW + 1.01 * ECHO)) == {1: [2]}
    assert case.stages[0].held_since == 0.0


@pytest.mark.parametrize(("count", "duration"), [(4, SLOW), (2, ECHO)], ids=["a full batch", "short calls"])
def test_nothing_waits_that_would_gain_nothing(count: int, duration: float) -> None:
    case, _ = make_shared(duration)
    case.queue(count)
    assert sizes(case.scheduler.assign(NOW)) == {1: [count]}


def test_a_process_that_has_gone_is_expected_no_more() -> None:
    echoes = Echoes()
    echoes.note_answers(1, NOW)
    assert echoes.until(NOW) == NOW + ECHO
    echoes.note_tasks(1)
    assert echoes.until(NOW) == 0.0
    echoes.note_answers(1, NOW)
    assert echoes.until(NOW + ECHO) == 0.0
