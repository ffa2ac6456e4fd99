"""Coalescing: tasks with an equal key that are in flight at a step share one run of it.

    tasks with one key ─▶ enter ─▶ one ticket of the run ─▶ queue ─▶ worker ─▶ end ─▶ each task goes on by itself

The run has a ticket of its own. It waits in the queue, goes to a worker and is tried again after a death in the place
of its tasks, whose tickets wait for it. So none of them is needed for it: it ends when the last one has left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...reports import RawStep
from ..marks import Marks
from ..memory.ledger import Ledger
from .runs import Run
from .spans import Spans
from .stage import Stage
from .ticket import IN_RUN, Ticket


class RunTicket(Ticket):
    """The ticket of a run.

    It has the number of the task that has begun the run, for log records and traces, and a copy of its content. It has
    no receiver and no deadline: those of its tasks count.

    Attributes:
        run: The run.
        leader: The task that has begun it, or a branch of that; it may have left.
    """

    __slots__ = ("leader", "run")
    run: Run[Ticket]
    leader: Ticket

    @property
    def branches(self) -> tuple[str, ...]:
        """Those of the task that has begun it: the spans of the worker belong there."""
        return self.leader.branches


class Coalescing:
    """Lets tasks into runs, and out of them.

    Args:
        stages: The steps.
        ledger: The holds on blocks.
        let_go: Takes a ticket out of the queue or out of the hands of a worker, and drops its blocks.
        spans: The spans of the tasks that are traced.
    """

    def __init__(
        self, stages: Sequence[Stage], ledger: Ledger, let_go: Callable[[Ticket], None], spans: Spans
    ) -> None:
        self._stages = stages
        self._ledger = ledger
        self._let_go = let_go
        self._spans = spans
        self._tickets: dict[Run[Ticket], RunTicket] = {}
        spans.is_in_run = self._has_no_span

    def enter(self, ticket: Ticket) -> Ticket | None:
        """Let a task that has arrived at a step into a run.

        A stream shares none: its items belong to one caller. Neither does a task with a field that is shared for
        writing, which every run changes.

        Args:
            ticket: Its ticket, with the step and a key.

        Returns:
            The ticket that has to wait for a worker: of the run that the task has begun, or its own if it shares none;
            None if the task waits for a run that another one has begun.
        """
        if ticket.status or any(ref.shared for ref in ticket.content.blocks):
            return ticket
        stage = self._stages[ticket.step]
        assert stage.runs is not None
        run, is_new = stage.runs.enter(ticket.marks.coalesce_key, ticket)
        ticket.holder = IN_RUN
        if is_new:
            return self._begin(run, ticket)
        shared = self._tickets[run]
        if ticket.priority > shared.priority and shared.is_waiting and not shared.is_suspect:
            return self._promote(shared, ticket.priority)
        return None

    def leave(self, ticket: Ticket) -> None:
        """Take a task out of its run, which ends with the last one, and drop its blocks."""
        runs = self._stages[ticket.step].runs
        assert runs is not None
        run = runs.leave(ticket)
        ticket.holder = 0
        self._ledger.drop(ticket.content.blocks)
        if run is not None:
            self._let_go(self._tickets.pop(run))

    def end(self, shared: RunTicket) -> list[Ticket]:
        """End a run that has an outcome.

        Args:
            shared: Its ticket; no worker has it any more. The blocks are to be dropped by the caller.

        Returns:
            Its tasks, in the order in which they came.
        """
        runs = self._stages[shared.step].runs
        assert runs is not None
        shared.is_settled = True
        del self._tickets[shared.run]
        members = runs.end(shared.run)
        for member in members:
            member.holder = 0
        return members

    def note_times(self, shared: RunTicket, members: list[Ticket]) -> None:
        """Note the times of the step for tasks of a run that has ended, if a worker has answered."""
        if not shared.metrics:
            return
        for member in members:
            record = _record_of(member, shared, shared.metrics[-1])
            member.metrics += (record,)
            member.sent_at = record[3]
        if self._spans.open:
            self._spans.note_shared(shared, members)

    def ticket_of(self, ticket: Ticket) -> tuple[RunTicket, int]:
        """Return the ticket of the run that a task waits for, and how many other tasks do."""
        runs = self._stages[ticket.step].runs
        assert runs is not None
        run = runs.run_of(ticket)
        return self._tickets[run], len(run.members) - 1

    def _begin(self, run: Run[Ticket], leader: Ticket) -> RunTicket:
        shared = RunTicket(leader.id, None, None, leader.content, leader.priority, math.inf, leader.started_at)
        shared.run, shared.leader = run, leader
        shared.step, shared.arrived_at = leader.step, leader.arrived_at
        batch_key, cost, _, tenant, weight, _ = leader.marks
        shared.marks = Marks(batch_key, cost, b"", tenant, weight)
        self._ledger.hold(shared.content.blocks)
        self._tickets[run] = shared
        return shared

    def _promote(self, shared: RunTicket, priority: int) -> RunTicket:
        """Return another ticket for a run in the queue: it has the priority of its most urgent task."""
        urgent = RunTicket(shared.id, None, None, shared.content, priority, math.inf, shared.started_at)
        urgent.run, urgent.leader = shared.run, shared.leader
        urgent.step, urgent.arrived_at, urgent.marks = shared.step, shared.arrived_at, shared.marks
        self._ledger.hold(urgent.content.blocks)
        self._tickets[shared.run] = urgent
        self._let_go(shared)
        return urgent

    def _has_no_span(self, ticket: Ticket) -> bool:
        """Tell whether a task waits for a run, and is not the one whose span a worker has."""
        if ticket.holder != IN_RUN:
            return False
        shared, _ = self.ticket_of(ticket)
        return ticket.id != shared.id or not shared.holder


def _record_of(member: Ticket, shared: RunTicket, record: RawStep) -> RawStep:
    """Return the times of a step for one of the tasks that have shared its run.

    Only the task that has begun the run was sent. One that came later has been in hand since it came, at most.
    """
    if member.id == shared.id:
        return record
    step, pid, _, sent_at, answered_at, handle_time, batch_size, _, version = record
    arrived_at = member.arrived_at
    handle_time = min(handle_time, answered_at - arrived_at)
    return step, pid, arrived_at, max(sent_at, arrived_at), answered_at, handle_time, batch_size, 0, version
