"""The share of a canary: the decisions alone, in a simulation of workers, for every way in which one is chosen."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from fastapi_aqueduct import FlowStep
from fastapi_aqueduct.engine.route import Route
from fastapi_aqueduct.engine.scheduling.scheduler import Assignments, Scheduler
from fastapi_aqueduct.engine.scheduling.split import Split
from fastapi_aqueduct.engine.scheduling.stage import Stage
from fastapi_aqueduct.engine.scheduling.ticket import Ticket
from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.workers.handle import WorkerHandle
from fastapi_aqueduct.engine.workers.in_flight import InFlight, Outgoing
from fastapi_aqueduct.engine.workers.pool import Pool
from fastapi_aqueduct.engine.workers.spec import WorkerSpec

from ..handlers import Each, Job

QUICK, SLOW = 0.00001, 0.02
TASKS = 5000


@dataclass(eq=False)
class Worker:
    """A worker that makes one call after the other.

    Attributes:
        pid: Process id.
        in_flight: What it has in hand.
        tasks: Tasks that it was given.
        free_at: When it has done all that it has in hand.
    """

    pid: int
    in_flight: InFlight[Ticket]
    state: WorkerState = WorkerState.READY
    step: int = 0
    tasks: int = 0
    free_at: float = 0.0


@dataclass
class Simulation:
    """Callers of one step with a canary, each of which waits for its answer and calls again.

    Attributes:
        step: The step.
        share: The share of the canary.
        pace: Seconds of one call of the handler.
    """

    step: FlowStep
    share: float
    pace: float
    workers: list[Worker] = field(init=False)
    now: float = 100.0

    def __post_init__(self) -> None:
        pool = Pool(WorkerSpec(0, "step", self.step, cast(Any, None), b""), [])
        self.stage = Stage(pool, 1024, 1)
        self.workers = [Worker(pid, InFlight(self.step.batch_size)) for pid in range(self.step.nprocs + 1)]
        self.canary = self.workers[0]
        cast(list[Any], pool.workers).extend(self.workers[1:])
        self.stage.split = Split(self.share)
        self.stage.split.canary = cast(WorkerHandle, self.canary)
        self.scheduler = Scheduler([self.stage], [], 1024, Route([bool]))
        self.answers: list[tuple[float, int, Worker, Outgoing[Ticket], float]] = []
        self._ids = itertools.count()

    def run(self, callers: int) -> float:
        """Run until all tasks are given out; return the part of them that the canary got."""
        self.arrive(callers)
        while sum(worker.tasks for worker in self.workers) < TASKS:
            due_at = self.scheduler.due_at()
            if not self.answers or due_at < self.answers[0][0]:
                assert due_at < math.inf, "nothing happens any more"
                self.now = max(self.now, due_at)
                self.send(self.scheduler.assign(self.now))
                continue
            self.now, _, worker, (tickets, _, _, number), duration = heapq.heappop(self.answers)
            worker.in_flight.complete(number, tickets, duration, self.now)
            if self.stage.queue.count:
                self.send(self.scheduler.refill(cast(WorkerHandle, worker), self.now))
            self.arrive(len(tickets))
        return self.canary.tasks / sum(worker.tasks for worker in self.workers)

    def arrive(self, count: int) -> None:
        """Let tasks arrive together, and the scheduler run after that."""
        for _ in range(count):
            ticket = Ticket(next(self._ids), Job(), None, Encoded(b"", b"", ()), 0, math.inf, self.now)
            ticket.arrived_at = self.now
            assignments = self.scheduler.assign_at_once(ticket, self.now)
            if not assignments:
                self.stage.queue.push(ticket)
            self.send(assignments)
        self.send(self.scheduler.assign(self.now))

    def send(self, assignments: Assignments) -> None:
        """Let workers work on what they are assigned."""
        for handle, batches in assignments.items():
            worker = cast(Worker, handle)
            for batch in batches:
                duration = self.pace * math.ceil(len(batch[0]) / self.step.batch_size)
                worker.free_at = max(worker.free_at, self.now) + duration
                worker.tasks += len(batch[0])
                heapq.heappush(self.answers, (worker.free_at, next(self._ids), worker, batch, duration))


LAYOUTS = {
    "an arrival at once": (FlowStep(Each(print), nprocs=2), SLOW, 2),
    "one worker": (FlowStep(Each(print)), SLOW, 4),
    "one worker and cheap tasks": (FlowStep(Each(print)), QUICK, 64),
    "cheap tasks for several workers": (FlowStep(Each(print), nprocs=3), QUICK, 200),
    "steady slow calls of full batches": (FlowStep(Each(print), nprocs=2, batch_size=8), SLOW, 64),
    "batches that are not full": (FlowStep(Each(print), nprocs=2, batch_size=8), SLOW, 5),
    "cheap batches": (FlowStep(Each(print), nprocs=2, batch_size=4), QUICK, 100),
    "a long queue of cheap batches": (FlowStep(Each(print), batch_size=16), QUICK / 10, 1000),
    "large batches": (FlowStep(Each(print), nprocs=2, batch_size=64), SLOW, 500),
    "a batch timeout": (FlowStep(Each(print), nprocs=2, batch_size=8, batch_timeout=0.01), SLOW, 40),
    "an automatic timeout": (FlowStep(Each(print), nprocs=2, batch_size=8, batch_timeout="auto"), SLOW, 40),
}


@pytest.mark.parametrize("share", [0.03, 0.25])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_canary_gets_its_share_within_one_percent(layout: str, share: float) -> None:
    step, pace, callers = LAYOUTS[layout]
    assert Simulation(step, share, pace).run(callers) == pytest.approx(share, abs=0.01)


def test_half_of_the_tasks_is_possible_with_one_worker() -> None:
    assert Simulation(FlowStep(Each(print)), 0.5, SLOW).run(8) == pytest.approx(0.5, abs=0.01)


def test_a_canary_that_is_too_slow_holds_up_no_task() -> None:
    """With four workers that are all busy, one more can do a fifth of the work and no half."""
    simulation = Simulation(FlowStep(Each(print), nprocs=4), 0.5, SLOW)
    assert simulation.run(32) == pytest.approx(0.2, abs=0.01)
    assert simulation.now - 100.0 == pytest.approx(TASKS * SLOW / 5, rel=0.02)


def test_a_canary_that_is_away_gets_no_tasks_and_need_not_catch_up() -> None:
    simulation = Simulation(FlowStep(Each(print), nprocs=2), 0.1, SLOW)
    simulation.canary.state = WorkerState.DEAD
    assert simulation.run(8) == 0
    for worker in simulation.workers:
        worker.tasks = 0
    simulation.canary.state = WorkerState.READY
    assert simulation.run(8) == pytest.approx(0.1, abs=0.01)


def test_a_task_that_may_have_killed_a_worker_is_not_for_a_canary() -> None:
    simulation = Simulation(FlowStep(Each(print)), 0.9, SLOW)
    ticket = Ticket(1, Job(), None, Encoded(b"", b"", ()), 0, math.inf, 0.0, deaths=1)
    simulation.stage.queue.push_alone(ticket)
    (worker,) = simulation.scheduler.assign(simulation.now)
    assert worker.pid == 1
