"""Retries: decides on the tasks of a worker that has died."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...exceptions import WorkerDied
from ..memory.ledger import Ledger
from ..memory.status_page import StatusPage
from ..workers.handle import WorkerHandle
from .failures import Failures
from .spans import Spans
from .stage import Stage
from .ticket import Ticket


class Retries:
    """Puts the tasks of dead workers back into the queue of their step, or ends them.

    Args:
        ledger: The holds on blocks.
        status_page: Tells which task a dead worker had in hand.
        fail: Ends a task with the error that a function makes, or several that share a run.
        spans: The spans of the tasks that are traced.
        failures: Notices tasks that fail.
    """

    def __init__(
        self,
        ledger: Ledger,
        status_page: StatusPage,
        fail: Callable[[Ticket, Callable[[], Exception]], None],
        spans: Spans,
        failures: Failures,
    ) -> None:
        self._ledger = ledger
        self._status_page = status_page
        self._fail = fail
        self._spans = spans
        self._failures = failures

    def requeue(self, stage: Stage, worker: WorkerHandle, error: WorkerDied) -> bool:
        """Try the tasks again that a dead worker had begun, or let them fail; queue the others again.

        Args:
            stage: Its step.
            worker: The worker; its last answers have been received.
            error: The error of the tasks that fail.

        Returns:
            Whether it died with a task in hand with which another worker has died before.
        """
        begun, in_hand, untouched = worker.in_flight.take_all(self._status_page.task_of(worker.region))
        for ticket in reversed(untouched):
            self._put_back(stage, ticket)
        is_repeated = any(ticket.is_suspect for ticket in in_hand)
        self._blame(stage, in_hand)
        is_alone = len(in_hand) == 1
        blamed = [ticket for ticket in in_hand if is_alone or ticket.is_settled or self._is_last(stage, ticket)]
        self._failures.note_death(blamed, worker, error, len(in_hand))
        for ticket in reversed([ticket for ticket in begun + in_hand if self._retry(stage, ticket, error)]):
            stage.queue.push_front(ticket)
        if self._spans.open:
            self._spans.note_death([*begun, *in_hand, *untouched], error)
        return is_repeated

    def _blame(self, stage: Stage, tickets: list[Ticket]) -> None:
        """Count a death for the tasks with which a worker has died.

        Of many calls side by side each is tried again together with the others first: one after the other, alone, they
        would keep the step busy for as long as all of them take.
        """
        is_known = not stage.places or len(tickets) == 1
        for ticket in tickets:
            if is_known or ticket.is_suspect:
                ticket.deaths += 1
            ticket.is_suspect = True

    def _put_back(self, stage: Stage, ticket: Ticket) -> None:
        ticket.holder = 0
        if ticket.is_settled:
            self._ledger.drop(ticket.content.blocks)
            return
        ticket.is_waiting = True
        if ticket.deaths:
            stage.queue.push_alone(ticket)
        else:
            stage.queue.push_front(ticket)

    def _retry(self, stage: Stage, ticket: Ticket, error: WorkerDied) -> bool:
        """Let a task fail, or queue it to be tried again alone; return whether it may be tried together with others."""
        ticket.holder = 0
        if ticket.is_settled:
            self._ledger.drop(ticket.content.blocks)
        elif self._is_last(stage, ticket):
            self._fail(ticket, partial(WorkerDied, error.step, error.pid, error.exit_code, error.reason))
        else:
            stage.retries += 1
            ticket.is_waiting = True
            if stage.places and not ticket.deaths:
                return True
            stage.queue.push_alone(ticket)
        return False

    def _is_last(self, stage: Stage, ticket: Ticket) -> bool:
        """Tell whether a task that a worker had begun fails now."""
        return ticket.deaths > stage.max_retries or not self._may_run_again(stage, ticket)

    def _may_run_again(self, stage: Stage, ticket: Ticket) -> bool:
        return stage.max_retries > 0 and not ticket.has_items and not any(ref.shared for ref in ticket.content.blocks)
