"""The spans of the tasks that are traced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ...exceptions import NotRunningError, TaskTimeout, WorkerDied
from ...logger import log
from ..tracer import BeginSpans, TaskSpans
from ..wire.extras import pack_extras, unpack_extras
from ..workers.handle import WorkerHandle
from ..workers.in_flight import Outgoing
from .ticket import Ticket

T = TypeVar("T")


class Spans:
    """Reports what happens to traced tasks to their spans.

    What a tracing system raises is logged, and the task goes on without spans.

    Args:
        begin: Returns the spans of a task; None if no task is traced.
        steps: Names of the steps.

    Attributes:
        begin: As given.
        open: The spans of the tasks that are not settled, by id. A task that is not traced costs the check whether it
            is empty.
        is_in_run: Tells whether a task waits for a run that it shares, and has no span of the step.
    """

    def __init__(self, begin: BeginSpans | None, steps: Sequence[str]) -> None:
        self.begin = begin
        self.open: dict[int, TaskSpans] = {}
        self.is_in_run: Callable[[Ticket], bool] = lambda ticket: False
        self._steps = steps

    def add(self, task: int) -> None:
        """Begin the spans of a task that is submitted in the present context, if it is traced."""
        spans = self._begin()
        if spans is not None:
            self.open[task] = spans

    def note_refusal(self, step: int, waiting_since: float, error: BaseException) -> None:
        """Note a task that has ended before it was submitted: it has waited for a place in the queue, or for memory.

        Args:
            step: Its first step.
            waiting_since: When it began to wait.
            error: Why it has ended.
        """
        spans = self._begin()
        if spans is not None:
            is_cancelled = isinstance(error, (asyncio.CancelledError, NotRunningError))
            outcome = "timed_out" if isinstance(error, TaskTimeout) else "cancelled" if is_cancelled else "failed"
            self._report(0, spans.end, self._steps[step], waiting_since, outcome, error)

    def note_sent(self, worker: WorkerHandle, batches: Iterable[Outgoing[Ticket]]) -> None:
        """Begin the spans of a step. Each task gets its own as the trace context for the worker.

        Args:
            worker: The worker.
            batches: What it gets; not packed yet.
        """
        for tickets, _, size, _ in batches:
            size = size or len(tickets)
            for start in range(0, len(tickets), size):
                first: TaskSpans | None = None
                for ticket in tickets[start : start + size]:
                    spans = self._find(ticket)
                    if spans is not None:
                        self._send(worker, ticket, spans, first)
                        first = first or (spans if spans.is_recorded else None)

    def note_answers(self, tickets: Iterable[Ticket], size: int, duration: float, now: float) -> None:
        """Note the answers of a worker; see `TaskSpans.answer`."""
        for ticket in tickets:
            spans = self._find(ticket)
            if spans is not None:
                self._report(ticket.id, spans.answer, size, duration, now)

    def note_death(self, tickets: Iterable[Ticket], error: WorkerDied) -> None:
        """Note the death of a worker, for those of its tasks that it has not ended."""
        for ticket in tickets:
            spans = self._find(ticket)
            if spans is not None:
                self._report(ticket.id, spans.lose, error)

    def note_shared(self, shared: Ticket, members: Iterable[Ticket]) -> None:
        """Note the answer of a worker for the tasks that have shared a run.

        Their spans of the step begin when they were sent or came, and link to that of the task which has begun it.

        Args:
            shared: The ticket of the run, with the number of that task.
            members: The tasks, with the times of the step.
        """
        first = self._find(shared)
        for member in members:
            spans = self._find(member)
            if spans is not None and spans is not first:
                step, pid, arrived_at, sent_at, answered_at, handle_time, size, *_ = member.metrics[-1]
                linked = first if first is not None and first.is_recorded else None
                self._report(member.id, spans.send, member.id, step, pid, arrived_at, sent_at, linked)
                self._report(member.id, spans.answer, size, handle_time, answered_at)

    def note_item(self, ticket: Ticket) -> None:
        """Note an item of a stream, which a task or a branch of it has sent."""
        spans = self._find(ticket)
        if spans is not None:
            self._report(ticket.id, spans.note_item)

    def end(self, ticket: Ticket, outcome: str, error: BaseException | None) -> None:
        """End the spans of a task; called while the ticket still tells where it is."""
        spans = self.open.pop(ticket.id, None)
        if spans is not None:
            waiting_since = ticket.arrived_at if ticket.is_waiting or self.is_in_run(ticket) else None
            self._report(ticket.id, spans.end, self._steps[ticket.step], waiting_since, outcome, error)

    def end_branches(self, branches: Iterable[Ticket], cause: Ticket, outcome: str, error: Exception | None) -> None:
        """End the spans of the branches of a task, before `end`.

        Args:
            branches: Those that have not ended.
            cause: The branch whose end is that of the task, or the task.
            outcome: How the task has ended.
            error: Its error, if it has one.
        """
        for branch in branches:
            spans = self._find(branch)
            if spans is not None:
                waiting_since = branch.arrived_at if branch.is_waiting or self.is_in_run(branch) else None
                end = (outcome, error) if cause is branch or not cause.is_branch else ("cancelled", None)
                self._report(branch.id, spans.end, self._steps[branch.step], waiting_since, *end)

    def _find(self, ticket: Ticket) -> TaskSpans | None:
        """Return the spans of a task, or of a branch; None if it is not traced."""
        spans = self.open.get(ticket.id)
        for name in ticket.branches if spans is not None else ():
            spans = None if spans is None else self._report(ticket.id, spans.branch, name)
        return spans

    def _begin(self) -> TaskSpans | None:
        return None if self.begin is None else self._report(0, self.begin)

    def _send(self, worker: WorkerHandle, ticket: Ticket, spans: TaskSpans, first: TaskSpans | None) -> None:
        step = self._steps[worker.step]
        times = ticket.arrived_at, ticket.sent_at
        trace = self._report(ticket.id, spans.send, ticket.id, step, worker.pid, *times, first)
        extras = pack_extras(unpack_extras(ticket.content.extras).values, trace or b"")
        ticket.content = ticket.content._replace(extras=extras)

    def _report(self, task: int, report: Callable[..., T], *arguments: object) -> T | None:
        try:
            return report(*arguments)
        except Exception:  # of a sampler, a propagator or a processor of spans
            log.exception("the spans of a task cannot be made")
            self.open.pop(task, None)
            return None
