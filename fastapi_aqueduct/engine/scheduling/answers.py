"""Answers: what workers return for the tasks of a batch, and what becomes of each task then.

    answer ─┬─▶ the whole task ───▶ queue of the next step, or the end
            ├─▶ a patch ──────────▶ joined with its task, or with all that have shared the run
            ├─▶ an error ─────────▶ the end
            └─▶ nothing: the task does not visit the step ─▶ queue of the next step
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from ...reports import RawStep
from ..marks import NO_MARKS, Marks
from ..memory.layout import Ref
from ..memory.ledger import Ledger
from ..route import FINISHED, Route
from ..statistics import IncidentKind
from ..wire.codec import Encoded
from ..wire.failures import decode_error, error_summary
from ..wire.frames import UNTOUCHED, Batch, Envelope, ProtocolError, Status, unpack_marks
from ..wire.joined import MalformedTask
from ..wire.patch import fields_of
from ..workers.handle import WorkerHandle
from .branches import BranchTicket
from .coalescing import Coalescing, RunTicket
from .failures import Failures
from .groups import Groups
from .spans import Spans
from .stage import Stage
from .task_owner import TaskOwner
from .ticket import Ticket
from .whereabouts import late_answer


class Answers:
    """Takes the answers of workers.

    Args:
        flow: Name of the flow.
        stages: The steps.
        route: The route of tasks.
        ledger: The holds on blocks.
        owner: Queues tasks and ends them.
        groups: Opens and closes branches.
        coalescing: The runs that tasks share.
        spans: The spans of the tasks that are traced.
        failures: Notices tasks that fail.
    """

    def __init__(
        self,
        flow: str,
        stages: Sequence[Stage],
        route: Route,
        ledger: Ledger,
        owner: TaskOwner,
        groups: Groups,
        coalescing: Coalescing,
        spans: Spans,
        failures: Failures,
    ) -> None:
        self._flow = flow
        self._stages = stages
        self._route = route
        self._ledger = ledger
        self._owner = owner
        self._groups = groups
        self._coalescing = coalescing
        self._spans = spans
        self._failures = failures

    def complete(self, worker: WorkerHandle, batch: Batch) -> None:
        """Handle the answers to the tasks of one batch.

        Args:
            worker: Who has answered.
            batch: The answers.

        Raises:
            ProtocolError: They make no sense.
        """
        envelopes, work, _, number = batch
        now = time.monotonic()
        in_flight, name, pid, version = worker.in_flight, worker.name, worker.pid, worker.version
        last_at = in_flight.head_since
        has_run = not (envelopes and envelopes[0].status) or any(item.status not in UNTOUCHED for item in envelopes)
        tickets, duration, size, calls = in_flight.complete(number, envelopes, work, now, has_run)
        try:
            stage = self._stages[worker.step]
            if has_run:
                if stage.meter is not None:
                    stage.meter.note_answer(number, tickets[0].sent_at, last_at, work, calls, duration, now)
                # The first call of a worker may be slower by far. An early answer is a part of a call that goes on.
                if stage.batch_delay is not None and calls and in_flight.handled > max(size, len(tickets)):
                    stage.batch_delay.note_call(size, duration)
            if stage.comparison is not None:
                stage.comparison.note_answers(worker, envelopes, calls, duration)
            if self._spans.open:
                self._spans.note_answers(tickets, size, duration, now)
            for ticket, envelope in zip(tickets, envelopes, strict=True):
                _, _, step, status, content, marks = envelope
                before = ticket.content
                sent = len(before.body)
                if not status:
                    if content.blocks != before.blocks:
                        self._replace_blocks(worker, ticket, envelope)
                    ticket.content = content
                elif status >= Status.PATCH:
                    times = ticket.arrived_at, ticket.sent_at, now
                    self._complete_part(
                        worker, ticket, envelope, (name, pid, *times, duration, size, sent, version)
                    )
                    continue
                ticket.holder = 0
                ticket.metrics += ((name, pid, ticket.arrived_at, ticket.sent_at, now, duration, size, sent, version),)
                if ticket.is_settled:
                    self._ledger.drop(ticket.content.blocks)
                elif now >= ticket.deadline and self._owner.is_over(ticket, now):
                    self._owner.end_late(ticket, late_answer(worker, ticket, status, duration, now), now)
                elif status:
                    self._fail(worker, ticket, envelope)
                elif step == FINISHED:
                    self._owner.finish(ticket, now)
                elif self._route.leads(worker.step, step):
                    found = _read_marks(worker, ticket, before, marks) if marks else NO_MARKS
                    ticket.marks = found.inherit(ticket.marks)
                    self._owner.enqueue(ticket, step, now)
                elif self._route.may_go(worker.step, step):
                    self._groups.move(ticket, worker.step, step, _read_marks(worker, ticket, before, marks), now)
                else:
                    _take_back(worker, ticket, before)
                    raise _no_way(worker, step)
        except Exception:
            # The worker is killed for it, and its death decides on the tasks that have no answer.
            worker.in_flight.restore([ticket for ticket in tickets if ticket.holder])
            raise

    def _complete_part(self, worker: WorkerHandle, ticket: Ticket, envelope: Envelope, record: RawStep) -> None:
        """Handle an answer that is no whole task: a patch, or nothing, since the task does not visit the step.

        Raises:
            ProtocolError: It makes no sense; nothing has changed.
        """
        now = record[4]
        patch = envelope.content
        is_patch = envelope.status == Status.PATCH
        if not self._route.may_go(worker.step, envelope.step):
            raise _no_way(worker, envelope.step)
        if not is_patch and isinstance(ticket, RunTicket):
            raise ProtocolError(f"step {worker.name} passes on a task that it has to visit")
        fields = self._read_patch(worker, patch) if is_patch else []
        marks = unpack_marks(envelope.marks) if envelope.marks else NO_MARKS
        ticket.holder = 0
        self._ledger.hold(patch.blocks)  # whatever becomes of the task, the worker has to learn when they are free
        try:
            if is_patch:
                ticket.metrics += (record,)
            if ticket.is_settled:
                self._ledger.drop(ticket.content.blocks)
            elif now >= ticket.deadline and self._owner.is_over(ticket, now):
                self._owner.end_late(ticket, late_answer(worker, ticket, envelope.status, record[5], now), now)
            elif isinstance(ticket, RunTicket):
                self._share(worker, ticket, envelope, fields, marks, now)
            else:
                if is_patch:
                    self._join(ticket, patch, fields, envelope.step)
                self._groups.move(ticket, worker.step, envelope.step, marks, now)
        finally:
            self._ledger.drop(patch.blocks)

    def _read_patch(self, worker: WorkerHandle, patch: Encoded) -> list[str]:
        """Return the names of the fields in a patch.

        Raises:
            ProtocolError: It makes no sense.
        """
        self._check_blocks(worker, patch.blocks)
        try:
            return fields_of(patch)
        except MalformedTask as exc:
            raise ProtocolError(str(exc)) from None

    def _share(
        self, worker: WorkerHandle, shared: RunTicket, envelope: Envelope, fields: list[str], marks: Marks, now: float
    ) -> None:
        """Give what the step has set to each of the tasks that have shared a run."""
        patch = envelope.content
        members = self._coalescing.end(shared)
        self._ledger.drop(shared.content.blocks)
        if any(ref.shared for ref in patch.blocks):
            members, others = members[:1], members[1:]  # each would change what the others have
            for member in others:
                member.marks = member.marks._replace(coalesce_key=b"")
                self._owner.enqueue(member, worker.step, now)
        self._coalescing.note_times(shared, members)
        following = self._route.onward(worker.step)
        for member in members:
            if now >= member.deadline and self._owner.is_over(member, now):
                duration = member.metrics[-1][5]
                self._owner.end_late(member, late_answer(worker, member, envelope.status, duration, now), now)
                continue
            # The worker knows what follows, and the marks, of the task that has run; of the others the next one will.
            step, known = (envelope.step, marks) if member.id == shared.id else (following, NO_MARKS)
            self._join(member, patch, fields, step)
            self._groups.move(member, worker.step, step, known, now)

    def _join(self, ticket: Ticket, patch: Encoded, fields: list[str], following: int) -> None:
        if isinstance(ticket, BranchTicket):
            self._groups.add_patch(ticket, patch, fields, following)
        else:
            self._groups.join(ticket, [patch])

    def _fail(self, worker: WorkerHandle, ticket: Ticket, envelope: Envelope) -> None:
        if envelope.status == Status.EXPIRED:  # for the worker; the deadline has moved since, because of a pause
            self._owner.enqueue(ticket, ticket.step, time.monotonic())
            return
        where = f"step {worker.name} of flow {self._flow} (pid {worker.pid})"
        make_error = partial(decode_error, envelope.content.body, where)
        try:
            self._failures.note_error(ticket, worker, envelope.content.body, make_error)
            self._owner.end_failed(ticket, make_error)
        except ProtocolError:
            ticket.holder = worker.pid
            raise
        incidents = self._stages[worker.step].pool.incidents
        incidents.note(IncidentKind.ERROR, *error_summary(envelope.content.body))

    def _replace_blocks(self, worker: WorkerHandle, ticket: Ticket, envelope: Envelope) -> None:
        """Hold the blocks of an answer in the place of those that were sent.

        Raises:
            ProtocolError: The answer makes no sense. What was sent may be needed again, and is held still.
        """
        blocks = envelope.content.blocks
        self._check_blocks(worker, blocks)
        if not self._route.may_go(worker.step, envelope.step):
            raise _no_way(worker, envelope.step)
        if envelope.marks:
            unpack_marks(envelope.marks)
        # In this order: a block that is in both must not become free between the two.
        self._ledger.hold(blocks)
        self._ledger.drop(ticket.content.blocks)

    def _check_blocks(self, worker: WorkerHandle, blocks: tuple[Ref, ...]) -> None:
        unknown = self._ledger.find_unknown(blocks, worker.region)
        if unknown is not None:
            raise ProtocolError(f"there is no block of {unknown.size} bytes at {unknown.offset}")


class BranchedAnswers(Answers):
    """The same where the workers of some steps answer with what they have changed; see `Stage.sends_patches`."""

    def complete(self, worker: WorkerHandle, batch: Batch) -> None:
        """Handle the answers to the tasks of one batch; see `Answers.complete`."""
        if self._stages[worker.step].sends_patches:
            for envelope in batch.envelopes:
                if not envelope.status:
                    raise ProtocolError(f"step {worker.name} answers with a whole task, and not with what it changed")
        super().complete(worker, batch)


def _read_marks(worker: WorkerHandle, ticket: Ticket, before: Encoded, marks: bytes) -> Marks:
    """Return the marks in an answer.

    Raises:
        ProtocolError: They make no sense. The task is in the hands of its worker still, as it was sent.
    """
    try:
        return unpack_marks(marks)
    except ProtocolError:
        _take_back(worker, ticket, before)
        raise


def _take_back(worker: WorkerHandle, ticket: Ticket, before: Encoded) -> None:
    """Undo what was made of an answer that makes no sense: the task is in the hands of its worker, as it was sent."""
    ticket.holder = worker.pid
    ticket.content = before
    ticket.metrics = ticket.metrics[:-1]


def _no_way(worker: WorkerHandle, following: int) -> ProtocolError:
    return ProtocolError(f"a task cannot go from step {worker.step} to step {following}")
