"""The dispatcher: owns every task from its submission to its end.

    Caller ─▶ submit ─▶ queue of a step ─▶ worker ─▶ answer ─┬─▶ queue of the next step ─▶ ...
                                                             └─▶ settle ─▶ the receiver of the task

Runs in the event loop of the API process: no locks, no threads. The `Scheduler` decides which tasks go to which worker,
and when.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Collection
from functools import partial

from ...exceptions import NotRunningError, TaskTimeout, WorkerDied
from ...fair_share import FairShare
from ...reports import RawStep, Subscriber
from ..marks import NO_MARKS, Marks, make_markers
from ..memory.flow_memory import FlowMemory
from ..memory.layout import Ref
from ..recorder import Recording, add_note
from ..route import FINISHED, START, make_route
from ..shape import Shape
from ..statistics import IncidentKind
from ..tenants import TenantReader
from ..timing import DEFAULT_TIMING, Timing
from ..tracer import BeginSpans
from ..wire.codec import Codec, Encoded
from ..wire.failures import decode_error, error_summary, unreadable
from ..wire.frames import (
    UNTOUCHED,
    Batch,
    Envelope,
    Kind,
    ProtocolError,
    Status,
    unpack_batches,
    unpack_marks,
    unpack_offsets,
)
from ..wire.joined import MalformedTask
from ..wire.patch import fields_of
from ..workers.handle import WorkerHandle
from ..workers.pool import Pool
from .admission import Admission
from .branches import BranchTicket
from .coalescing import Coalescing, RunTicket
from .deadlines import Deadlines
from .echoes import Echoes
from .failures import Failures, LocalSink
from .fair_stage import make_stages
from .groups import Groups
from .idle import Idle
from .meter import Meter
from .publishing import publish
from .reclaim import Reclaimer, Tenancy
from .retention import Retention
from .retries import Retries
from .scheduler import Scheduler
from .sender import Sender
from .spans import Spans
from .streams import WorkerStreams
from .ticket import IN_RUN, Ticket
from .whereabouts import late_answer, whereabouts


class Dispatcher:
    """Sends tasks through the steps of a flow, and settles each exactly once.

    Args:
        name: Name of the flow.
        pools: The workers of its steps; their observer is to be the dispatcher.
        memory: The shared memory of the flow.
        queue_size: Tasks that may wait for a step, in each level.
        priorities: Number of priority levels.
        timing: The times of the engine.
        meter: Measures the flow; None: nothing does.
        subscribers: Get the record of each task that ends.
        begin_spans: Returns the spans of a task; None if no task is traced.
        recording: Has the recorder of tasks that fail.
        fair: How tenants share the flow; None: they do not.
        shape: Which steps run one after the other, and which side by side; empty: all one after the other.

    Attributes:
        name: Name of the flow.
        loop: The event loop that it works in; None while it works in none.
        stages: The steps.
        route: The route of tasks through them.
        admission: Refuses tasks that have no chance.
        codec: Encodes and decodes tasks; one for both directions, since it learns what a class of tasks needs.
        outcomes: How many tasks ended how.
        meter: As given.
        streams: Delivers the items of streams.
        spans: The spans of the tasks that are traced.
        failures: Notices tasks that fail.
    """

    def __init__(
        self,
        name: str,
        pools: list[Pool],
        memory: FlowMemory,
        queue_size: int,
        priorities: int,
        timing: Timing = DEFAULT_TIMING,
        meter: Meter | None = None,
        subscribers: Collection[Subscriber] = (),
        begin_spans: BeginSpans | None = None,
        recording: Recording | None = None,
        fair: FairShare | None = None,
        shape: Shape = (),
    ) -> None:
        self.name = name
        meters = meter.steps if meter is not None else [None] * len(pools)
        limit = None if fair is None else fair.limit(queue_size)
        self.stages = make_stages(pools, queue_size, priorities, meters, timing, limit)
        self.meter = meter
        self._subscribers = subscribers
        self.outcomes = dict.fromkeys(("completed", "failed", "timed_out", "cancelled"), 0)
        markers = make_markers((pool.name, pool.step) for pool in pools)
        tenants = None if fair is None else TenantReader(name, fair)
        self.route = make_route([pool.step.handle_condition for pool in pools], markers, shape, tenants)
        for index, stage in enumerate(self.stages):
            stage.sends_patches = self.route.sends_patches(index)
        self._memory = memory
        self._arena = memory.arena
        self._ledger = memory.ledger
        self.codec = Codec(memory.arena)
        self._ids = itertools.count(1)
        self._tickets: dict[int, Ticket] = {}
        self._deadlines = Deadlines(self._time_out)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.spans = Spans(begin_spans, [stage.name for stage in self.stages])
        self._scheduler = Scheduler(self.stages, memory.arrivals, queue_size, self.route)
        self._sender = Sender(self._scheduler, self.stages, memory, self.spans)
        self.admission = Admission(name, self.stages, queue_size, memory.refusals, self.route)
        self._reclaimer = Reclaimer(self.stages, memory)
        self._idle = Idle(self._tickets, self._reclaimer.return_to_system, timing.idle_time)
        memory.waiters.on_shortage = self._reclaimer.reclaim
        self.failures = Failures(LocalSink(name, recording or Recording(), self.codec))
        self._retries = Retries(memory.ledger, memory.arena.status, self._end_failed, self.spans, self.failures)
        self._coalescing = Coalescing(self.stages, memory.ledger, self._let_go, self.spans)
        self.streams = WorkerStreams(
            name, self.stages, memory, self._tickets, self._deadlines, self._settle, self.spans, meter
        )
        self._retention = Retention(memory.ledger)
        self._groups = Groups(
            *(name, self.route, memory.ledger, self._enqueue, self._finish, self._settle, self._retract)
        )

    @property
    def in_flight(self) -> int:
        """Number of tasks that are not settled."""
        return len(self._tickets)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop, also on tasks that other threads have handed to an earlier one."""
        self.detach("its event loop has ended", handed=False)
        self.loop = loop
        self.streams.attach(loop)
        for ticket in self._tickets.values():
            self._deadlines.add(ticket, loop)
        self._sender.attach(loop)

    def detach(self, reason: str, handed: bool = True) -> None:
        """Stop working in an event loop, and end tasks as `abandon` does."""
        self.loop = None
        self.streams.detach()
        self._sender.detach()
        self.abandon(reason, handed)
        self._deadlines.clear()
        self._memory.waiters.detach()

    def submit(self, ticket: Ticket, step: int) -> int:
        """Become the owner of a task of a caller in this process, and queue it.

        Args:
            ticket: Its ticket, which gets a number and the level of the task's priority.
            step: The step that it visits first; see `Route.next`.

        Returns:
            Its number, for `withdraw`.

        Raises:
            ConfigurationError: The priority is not a whole number.
        """
        task = ticket.task
        assert task is not None
        if task.priority != 0:
            ticket.priority = self.stages[0].queue.level(task.priority)
        number = ticket.id = next(self._ids)
        self.own(ticket, step)
        return number

    def own(self, ticket: Ticket, step: int) -> None:
        """Become the owner of a task that has a ticket, and queue it.

        Args:
            ticket: The ticket; no other one may have its number.
            step: The step that the task visits first; see `Route.next`.
        """
        assert self.loop is not None
        if ticket.content.blocks:
            self._ledger.hold(ticket.content.blocks)
        self._tickets[ticket.id] = ticket
        self._deadlines.add(ticket, self.loop)
        if self.spans.begin is not None:
            self.spans.add(ticket.id)
        if step >= 0:
            self._enqueue(ticket, step, ticket.started_at)
        else:
            self._groups.move(ticket, START, step, ticket.marks, ticket.started_at)

    def withdraw(self, number: int) -> None:
        """End a task whose caller does not wait any more."""
        ticket = self._tickets.get(number)
        if ticket is not None:
            self._settle(ticket, "cancelled", None)

    def count(self, outcome: str) -> None:
        """Count the end of a task that was not submitted."""
        self.outcomes[outcome] += 1

    def note_workers(self, index: int) -> None:
        """Handle a change in which workers of a step take tasks; see `PoolObserver`."""
        self.admission.note_workers(index)
        self._sender.schedule()

    def receive(self, worker: WorkerHandle, kind: Kind, payload: bytes) -> None:
        """Handle a frame from a worker.

        Raises:
            ProtocolError: The frame makes no sense.
        """
        if kind is Kind.ANSWERS:
            for batch in unpack_batches(payload):
                self._complete(worker, batch)
            if self.stages[worker.step].queue.count:
                self._sender.refill(worker)
            for stage in self.stages:
                if stage.queue.count:
                    self._sender.schedule()
                    break
        elif kind is Kind.ITEMS:
            self.streams.receive(worker, payload)
        elif kind is Kind.RETAINED:
            self._retention.hold(worker, unpack_offsets(payload))
        elif kind is Kind.RELEASED:
            self._retention.drop(worker, unpack_offsets(payload))
        elif kind is Kind.FULL:
            self.reclaim_for(worker)
        elif kind is Kind.TRIMMED:
            self._memory.waiters.notify()
        else:
            raise ProtocolError(f"a worker does not send frames of kind {kind.name}")

    def remove(self, worker: WorkerHandle, error: WorkerDied) -> bool:
        """Handle the loss of a worker: tasks that it had begun are tried again or fail, others wait again.

        Args:
            worker: The worker; its last frames have been received.
            error: The error of the tasks that fail.

        Returns:
            Whether it died with a task in hand with which another worker has died before.
        """
        is_repeated = self._retries.requeue(self.stages[worker.step], worker, error)
        self.forget(worker)
        return is_repeated

    def forget(self, worker: WorkerHandle) -> None:
        """Release what a worker without tasks has held, which is gone."""
        self._retention.drop_all(worker)
        self._reclaimer.forget(worker)

    @property
    def guests(self) -> set[Tenancy]:
        """The API processes that are served by this one; only their owner changes it."""
        return self._reclaimer.guests

    def expect_echoes(self) -> Echoes:
        """Have batches wait for the tasks of API processes that follow their answers; see `Echoes`."""
        if self._scheduler.echoes is None:
            self._scheduler.echoes = Echoes()
        return self._scheduler.echoes

    def reclaim_for(self, process: Tenancy) -> None:
        """Reclaim shared memory for a process that waits for it, and send it what becomes free."""
        self._arena.collect_garbage()
        self._reclaimer.reclaim_for(process)

    def forget_guest(self, guest: Tenancy) -> None:
        """Remove an API process that is gone."""
        self._reclaimer.guests.discard(guest)
        self._reclaimer.forget(guest)

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no task is left.

        Returns:
            Whether that happened within ``timeout`` seconds.
        """
        return await self._idle.wait(timeout)

    def abandon(self, reason: str, handed: bool = True) -> None:
        """End every task with `NotRunningError`.

        Args:
            reason: Why.
            handed: Whether also tasks whose callers are in other threads, and outlive the event loop.
        """
        for ticket in list(self._tickets.values()):
            receiver = ticket.receiver
            if not handed and ticket.is_handed and receiver is not None and not receiver.done():
                continue
            with contextlib.suppress(RuntimeError):  # the event loop of its caller is closed
                self._settle(ticket, "cancelled", NotRunningError(f"the task ended with flow {self.name}: {reason}"))
        self._idle.cancel()
        for stage in self.stages:
            stage.waiters.close()

    def _enqueue(self, ticket: Ticket, step: int, now: float) -> None:
        ticket.step = step
        ticket.arrived_at = now
        stage = self.stages[step]
        if stage.runs is not None and ticket.marks.coalesce_key:
            shared = self._coalescing.enter(ticket)
            if shared is None:
                return
            ticket = shared
        queue = stage.queue
        if queue.count or not self._sender.send_at_once(ticket, now):
            ticket.is_waiting = True
            queue.push(ticket)
            if self.admission.unavailable:
                self.admission.wake_at(step)
            self._sender.schedule()

    def _complete(self, worker: WorkerHandle, batch: Batch) -> None:
        envelopes, work, _, number = batch
        now = time.monotonic()
        in_flight, name, pid, version = worker.in_flight, worker.name, worker.pid, worker.version
        last_at = in_flight.head_since
        has_run = not (envelopes and envelopes[0].status) or any(item.status not in UNTOUCHED for item in envelopes)
        tickets, duration, size, calls = in_flight.complete(number, envelopes, work, now, has_run)
        try:
            stage = self.stages[worker.step]
            if has_run:
                if stage.meter is not None:
                    stage.meter.note_answer(number, tickets[0].sent_at, last_at, work, calls, duration, now)
                # The first call of a worker may be slower by far. An early answer is a part of a call that goes on.
                if stage.batch_delay is not None and calls and in_flight.handled > max(size, len(tickets)):
                    stage.batch_delay.note_call(size, duration)
            if stage.comparison is not None:
                stage.comparison.note_answers(worker, envelopes, calls, duration)
            if self.spans.open:
                self.spans.note_answers(tickets, size, duration, now)
            for ticket, envelope in zip(tickets, envelopes, strict=True):
                _, _, step, status, content, marks = envelope
                sent = len(ticket.content.body)
                if not status:
                    if content.blocks != ticket.content.blocks:
                        self._replace_blocks(worker, ticket, content.blocks)
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
                elif now >= ticket.deadline and not self._deadlines.forgive(now) and ticket.is_late(now):
                    self._end_late(ticket, late_answer(worker, ticket, status, duration, now), now)
                elif status:
                    self._fail(worker, ticket, envelope)
                elif step == FINISHED:
                    self._finish(ticket, now)
                elif self.route.leads(worker.step, step):
                    ticket.marks = unpack_marks(marks) if marks else NO_MARKS
                    self._enqueue(ticket, step, now)
                else:
                    self._move(worker, ticket, step, unpack_marks(marks), now)
        except Exception:
            # The worker is killed for it, and its death decides on the tasks that have no answer.
            worker.in_flight.restore([ticket for ticket in tickets if ticket.holder])
            raise

    def _complete_part(self, worker: WorkerHandle, ticket: Ticket, envelope: Envelope, record: RawStep) -> None:
        """Handle an answer that is no whole task: a patch, or nothing, since the task does not visit the step."""
        now = record[4]
        patch = envelope.content
        is_patch = envelope.status == Status.PATCH
        fields = self._read_patch(worker, patch) if is_patch else []
        marks = unpack_marks(envelope.marks)
        ticket.holder = 0
        self._ledger.hold(patch.blocks)  # whatever becomes of the task, the worker has to learn when they are free
        try:
            if is_patch:
                ticket.metrics += (record,)
            if ticket.is_settled:
                self._ledger.drop(ticket.content.blocks)
            elif now >= ticket.deadline and not self._deadlines.forgive(now) and ticket.is_late(now):
                self._end_late(ticket, late_answer(worker, ticket, envelope.status, record[5], now), now)
            elif isinstance(ticket, RunTicket):
                self._share(worker, ticket, envelope, fields, marks, now)
            else:
                if is_patch:
                    self._join(ticket, patch, fields, envelope.step)
                self._move(worker, ticket, envelope.step, marks, now)
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
                self._enqueue(member, worker.step, now)
        self._coalescing.note_times(shared, members)
        following = self.route.begin(self.route.after(worker.step))
        for member in members:
            if now >= member.deadline and not self._deadlines.forgive(now) and member.is_late(now):
                duration = member.metrics[-1][5]
                self._end_late(member, late_answer(worker, member, envelope.status, duration, now), now)
                continue
            # The worker knows what follows, and the marks, of the task that has run; of the others the next one will.
            step, known = (envelope.step, marks) if member.id == shared.id else (following, NO_MARKS)
            self._join(member, patch, fields, step)
            self._move(worker, member, step, known, now)

    def _join(self, ticket: Ticket, patch: Encoded, fields: list[str], following: int) -> None:
        if isinstance(ticket, BranchTicket):
            self._groups.add_patch(ticket, patch, fields, following)
        else:
            self._groups.join(ticket, [patch])

    def _move(self, worker: WorkerHandle, ticket: Ticket, following: int, marks: Marks, now: float) -> None:
        """Move a task from a step to where a worker says that it goes.

        Raises:
            ProtocolError: There is no such way.
        """
        if not self._groups.move(ticket, worker.step, following, marks, now):
            ticket.holder = worker.pid
            raise ProtocolError(f"a task cannot go from step {worker.step} to step {following}")

    def _fail(self, worker: WorkerHandle, ticket: Ticket, envelope: Envelope) -> None:
        if envelope.status == Status.EXPIRED:  # for the worker; the deadline has moved since, because of a pause
            self._enqueue(ticket, ticket.step, time.monotonic())
            return
        where = f"step {worker.name} of flow {self.name} (pid {worker.pid})"
        make_error = partial(decode_error, envelope.content.body, where)
        try:
            self.failures.note_error(ticket, worker, envelope.content.body, make_error)
            self._end_failed(ticket, make_error)
        except ProtocolError:
            ticket.holder = worker.pid
            raise
        incidents = self.stages[worker.step].pool.incidents
        incidents.note(IncidentKind.ERROR, *error_summary(envelope.content.body))

    def _end_failed(self, ticket: Ticket, make_error: Callable[[], Exception]) -> None:
        """End a task with an error, or each of those that share a run with an error of its own."""
        error, path = make_error(), self.failures.pop(ticket)
        add_note(error, path)
        if not isinstance(ticket, RunTicket):
            self._settle(ticket, "failed", error)
            return
        members = self._coalescing.end(ticket)
        self._coalescing.note_times(ticket, members)
        self._ledger.drop(ticket.content.blocks)
        for member in members:
            error = make_error()
            add_note(error, path)
            self._settle(member, "failed", error)

    def _replace_blocks(self, worker: WorkerHandle, ticket: Ticket, blocks: tuple[Ref, ...]) -> None:
        self._check_blocks(worker, blocks)
        # In this order: a block that is in both must not become free between the two.
        self._ledger.hold(blocks)
        self._ledger.drop(ticket.content.blocks)

    def _check_blocks(self, worker: WorkerHandle, blocks: tuple[Ref, ...]) -> None:
        unknown = self._ledger.find_unknown(blocks, worker.region)
        if unknown is not None:
            raise ProtocolError(f"there is no block of {unknown.size} bytes at {unknown.offset}")

    def _finish(self, ticket: Ticket, now: float) -> None:
        if ticket.is_branch:
            assert isinstance(ticket, BranchTicket)
            self._groups.end(ticket, now)
            return
        total_time = now - ticket.started_at
        try:
            ticket.fill_in(self.codec, total_time)
        except Exception as exc:
            # No local name for the error: its cause refers to this frame, and as a cycle they would keep the blocks.
            self._settle(ticket, "failed", unreadable(self.name, exc))
            return
        if self.meter is not None:
            self.meter.total_time.values.append(total_time)
        self._settle(ticket, "completed", None)

    def _settle(self, ticket: Ticket, outcome: str, error: Exception | None) -> None:
        """End a task: the one place where its receiver gets its end and its blocks are dropped."""
        cause = ticket
        if ticket.is_branch:
            ticket = ticket.root
        if ticket.is_settled:
            return
        if ticket.group is not None:
            if self.spans.open:
                self.spans.end_branches(ticket.group.open(), cause, outcome, error)
            self._groups.abandon(ticket)
        if self.spans.open:
            self.spans.end(ticket, outcome, error)
        ticket.is_settled = True
        if self._subscribers:
            publish(ticket, outcome, self._subscribers, self.name)
        ticket.task = None
        self.outcomes[outcome] += 1
        del self._tickets[ticket.id]
        self._deadlines.remove(ticket)
        if ticket.is_waiting or ticket.holder or ticket.content.blocks:
            self._retract(ticket)
        receiver, ticket.receiver = ticket.receiver, None
        if receiver is not None and not receiver.done():
            if error is None:
                receiver.set_result(None)
            else:
                receiver.set_exception(error)
        if not self._tickets:
            self._idle.begin(self.loop)

    def _retract(self, ticket: Ticket) -> None:
        """Take a settled ticket out of its queue, drop its blocks, and cancel it in the hands of a worker."""
        if ticket.is_waiting:
            self._leave_queue(ticket)
        if ticket.holder:
            self._cancel(ticket)
        elif ticket.content.blocks:
            self._ledger.drop(ticket.content.blocks)

    def _leave_queue(self, ticket: Ticket) -> None:
        ticket.is_waiting = False
        stage = self.stages[ticket.step]
        stage.queue.discard(ticket)
        if stage.waiters.contenders:
            stage.waiters.open()

    def _cancel(self, ticket: Ticket) -> None:
        """Tell the worker that has a task in hand that its answer is not needed any more, or leave the shared run."""
        if ticket.holder == IN_RUN:
            self._coalescing.leave(ticket)
            return
        for worker in self.stages[ticket.step].pool.all_workers():
            if worker.pid == ticket.holder:
                worker.cancel(ticket.id)

    def _let_go(self, ticket: Ticket) -> None:
        """Take the ticket of a run for which no task waits out of the queue, or cancel it in a worker's hands."""
        ticket.is_settled = True
        self._retract(ticket)

    def _time_out(self, ticket: Ticket) -> None:
        if ticket.is_settled:
            return
        now = time.monotonic()
        if not ticket.is_late(now):
            assert self.loop is not None
            self._deadlines.add(ticket, self.loop)
            return
        self._end_late(ticket, self._whereabouts(ticket, now), now)

    def _whereabouts(self, ticket: Ticket, now: float) -> str:
        if ticket.group is not None:
            return ", and ".join([self._whereabouts(branch, now) for branch in ticket.group.open()])
        stage, status_page = self.stages[ticket.step], self._arena.status
        if ticket.holder != IN_RUN:
            return whereabouts(stage, ticket, status_page, now)
        shared, others = self._coalescing.ticket_of(ticket)
        where = whereabouts(stage, shared, status_page, now)
        return f"sharing a run with {others} other tasks, which was {where}" if others else where

    def _end_late(self, ticket: Ticket, where: str, now: float) -> None:
        message = f"timeout of a task after {now - ticket.started_at:.3f} s in flow {self.name}: it was {where}"
        item_age = ticket.item_age(now)
        if item_age is not None:
            message += f"; no item has come for {item_age:.3f} s"
        self.stages[ticket.step].pool.incidents.note(IncidentKind.TIMEOUT, "TaskTimeout", message)
        self._settle(ticket, "timed_out", TaskTimeout(message))
