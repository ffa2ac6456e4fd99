"""Which tasks go on while a later step is crowded: the decisions alone, without a worker."""

from __future__ import annotations

import itertools
import math
import operator
from typing import Any, cast

import pytest

from fastapi_aqueduct import Cost, FlowStep
from fastapi_aqueduct.engine.marks import Marks
from fastapi_aqueduct.engine.route import Route
from fastapi_aqueduct.engine.scheduling.fair_stage import make_stages
from fastapi_aqueduct.engine.scheduling.scheduler import Scheduler
from fastapi_aqueduct.engine.scheduling.split import Split
from fastapi_aqueduct.engine.scheduling.ticket import Ticket
from fastapi_aqueduct.engine.timing import DEFAULT_TIMING
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.workers.in_flight import InFlight
from fastapi_aqueduct.engine.workers.pool import Pool
from fastapi_aqueduct.engine.workers.spec import WorkerSpec

from ..handlers import Each, Job, has_gate
from .test_lanes import Worker

NOW = 100.0


class Crowd:
    """A flow of a first step and one with a condition, for which a task of tenant a waits too many.

    Args:
        first: The first step.
        later: The other one.
    """

    def __init__(self, first: FlowStep, later: FlowStep | None = None) -> None:
        later = later or FlowStep(Each(), handle_condition=has_gate)
        specs = [WorkerSpec(i, f"step{i}", step, cast(Any, None), b"") for i, step in enumerate((first, later))]
        pools = [Pool(spec, []) for spec in specs]
        self.workers: list[Any] = [Worker(0, InFlight(first.call_size, first.places), pid) for pid in (1, 2)]
        cast(Any, pools[0].workers).extend(self.workers)
        self.first, self.later = make_stages(pools, 100, 2, [None, None], DEFAULT_TIMING, 100)
        self.scheduler = Scheduler(
            [self.first, self.later], [], 100, Route([operator.truth, later.handle_condition])
        )
        self._ids = itertools.count(1)
        for _ in range(self.later.supply):
            self.push("a", step=1)

    def push(self, tenant: str, cost: int = 0, key: str = "", step: int = 0, priority: int = 0) -> Ticket:
        """Put a task in the queue of a step."""
        marks = Marks(key.encode(), cost, b"", tenant.encode())
        ticket = Ticket(next(self._ids), Job(), None, Encoded(b"", b"", ()), priority, math.inf, NOW, marks, step=step)
        ticket.arrived_at = NOW
        (self.later if step else self.first).queue.push(ticket)
        return ticket

    def assign(self) -> list[str]:
        """Return the tenants of each batch that is sent now."""
        return [
            "".join(ticket.marks.tenant.decode() for ticket in tickets)
            for batches in self.scheduler.assign(NOW).values()
            for tickets, *_ in batches
        ]


def test_only_tenants_without_tasks_in_the_crowd_go_on() -> None:
    crowd = Crowd(FlowStep(Each(), batch_size=3))
    for tenant in "aabbcb":
        crowd.push(tenant)
    assert crowd.assign() == ["bcb", "b"]
    assert crowd.first.queue.count == 2
    crowd.push("b")
    for worker in crowd.workers:
        worker.in_flight = InFlight(3)
    crowd.later.queue.pop_batch(NOW)
    assert crowd.assign() == ["aba"]


def test_a_step_that_all_tasks_visit_holds_up_all() -> None:
    crowd = Crowd(FlowStep(Each()), FlowStep(Each()))
    crowd.push("b")
    assert crowd.assign() == []


def test_a_task_that_goes_alone_waits_with_its_tenant() -> None:
    crowd = Crowd(FlowStep(Each(), batch_size=4))
    for tenant in "ab":
        ticket = crowd.push(tenant)
        crowd.first.queue.discard(ticket)
        crowd.first.queue.push_alone(ticket)
        crowd.push("b")
    assert crowd.assign() == ["b", "bb"]
    crowd.workers[0].in_flight = InFlight(4)
    crowd.later.queue.pop_batch(NOW)
    assert crowd.assign() == ["a"]


def test_batches_have_one_key_and_the_highest_priority_is_first() -> None:
    crowd = Crowd(FlowStep(Each(), batch_size=4, batch_key="key"))
    for tenant, key in ("bx", "by", "cx", "cy", "ax", "ay"):
        crowd.push(tenant, key=key)
    crowd.push("d", key="y", priority=1)
    assert crowd.assign() == ["dbc", "bc"]


@pytest.mark.parametrize("has_canary", [False, True])
def test_the_tasks_of_a_continuous_call_cost_no_more_than_the_limit(has_canary: bool) -> None:
    crowd = Crowd(FlowStep(Each(print), batch_size=8, continuous=True, batch_cost=Cost("cost", limit=100)))
    if has_canary:
        crowd.first.split = Split(0.5)
        crowd.first.split.canary = cast(Any, Worker(0, InFlight(1, 8), 99))
    crowd.push("a", 1)
    for _ in range(8):
        crowd.push("b", 60)
    crowd.assign()
    for worker in crowd.workers:
        assert sum(ticket.marks.cost for ticket in worker.in_flight.tickets()) == 60
