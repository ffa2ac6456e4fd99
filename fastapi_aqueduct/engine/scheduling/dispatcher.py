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

from ...exceptions import NotRunningError, TaskTimeout, WorkerDied
from ...fair_share import FairShare
from ...reports import Subscriber
from ..marks import make_markers
from ..memory.flow_memory import FlowMemory
from ..recorder import Recording, add_note
from ..route import START, make_route
from ..shape import Shape
from ..statistics import IncidentKind
from ..tenants import TenantReader
from ..timing import DEFAULT_TIMING, Timing
from ..tracer import BeginSpans
from ..wire.codec import Codec
from ..wire.failures import unreadable
from ..wire.frames import (
    Kind,
    ProtocolError,
    unpack_batches,
    unpack_offsets,
)
from ..workers.handle import WorkerHandle
from ..workers.pool import Pool
from .admission import Admission
from .answers import Answers, BranchedAnswers
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
from .whereabouts import whereabouts


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
        self._retries = Retries(memory.ledger, memory.arena.status, self.end_failed, self.spans, self.failures)
        self._coalescing = Coalescing(self.stages, memory.ledger, self._let_go, self.spans)
        self.streams = WorkerStreams(
            name, self.stages, memory, self._tickets, self._deadlines, self.settle, self.spans, meter
        )
        self._retention = Retention(memory.ledger)
        self._groups = Groups(name, self.stages, self.route, memory.ledger, self)
        make_answers = BranchedAnswers if any(stage.sends_patches for stage in self.stages) else Answers
        self._answers = make_answers(
            *(name, self.stages, self.route, memory.ledger, self, self._groups, self._coalescing),
            *(self.spans, self.failures),
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
            self.enqueue(ticket, step, ticket.started_at)
        else:
            self._groups.move(ticket, START, step, ticket.marks, ticket.started_at)

    def withdraw(self, number: int) -> None:
        """End a task whose caller does not wait any more."""
        ticket = self._tickets.get(number)
        if ticket is not None:
            self.settle(ticket, "cancelled", None)

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
                self._answers.complete(worker, batch)
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
                self.settle(ticket, "cancelled", NotRunningError(f"the task ended with flow {self.name}: {reason}"))
        self._idle.cancel()
        for stage in self.stages:
            stage.waiters.close()

    def enqueue(self, ticket: Ticket, step: int, now: float) -> None:
        """Queue a task for a step; see `TaskOwner`."""
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

    def end_failed(self, ticket: Ticket, make_error: Callable[[], Exception]) -> None:
        """End a task with an error, or each of those that share a run with an error of its own."""
        error, path = make_error(), self.failures.pop(ticket)
        add_note(error, path)
        if not isinstance(ticket, RunTicket):
            self.settle(ticket, "failed", error)
            return
        members = self._coalescing.end(ticket)
        self._coalescing.note_times(ticket, members)
        self._ledger.drop(ticket.content.blocks)
        for member in members:
            error = make_error()
            add_note(error, path)
            self.settle(member, "failed", error)

    def is_over(self, ticket: Ticket, now: float) -> bool:
        """Tell whether the deadline of a task has passed."""
        return not self._deadlines.forgive(now) and ticket.is_late(now)

    def end_late(self, ticket: Ticket, where: str, now: float) -> None:
        """End a task whose deadline has passed; see `TaskOwner`."""
        group = ticket.root.group
        found = (ticket,) if group is None else tuple(group.open())
        places = [where if one is ticket and where else self._whereabouts(one, now) for one in found]
        message = f"timeout of a task after {now - ticket.started_at:.3f} s in flow {self.name}: it was "
        message += ", and ".join(places)
        item_age = ticket.item_age(now)
        if item_age is not None:
            message += f"; no item has come for {item_age:.3f} s"
        for step in {one.step for one in found}:
            self.stages[step].pool.incidents.note(IncidentKind.TIMEOUT, "TaskTimeout", message)
        self.settle(ticket, "timed_out", TaskTimeout(message))

    def finish(self, ticket: Ticket, now: float) -> None:
        """End a task whose last step has answered; see `TaskOwner`, also for the following."""
        total_time = now - ticket.started_at
        try:
            ticket.fill_in(self.codec, total_time)
        except Exception as exc:
            # No local name for the error: its cause refers to this frame, and as a cycle they would keep the blocks.
            self.settle(ticket, "failed", unreadable(self.name, exc))
            return
        if self.meter is not None:
            self.meter.total_time.values.append(total_time)
        self.settle(ticket, "completed", None)

    def settle(self, ticket: Ticket, outcome: str, error: Exception | None) -> None:
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
            self.retract(ticket)
        receiver, ticket.receiver = ticket.receiver, None
        if receiver is not None and not receiver.done():
            if error is None:
                receiver.set_result(None)
            else:
                receiver.set_exception(error)
        if not self._tickets:
            self._idle.begin(self.loop)

    def retract(self, ticket: Ticket) -> None:
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
        self.retract(ticket)

    def _time_out(self, ticket: Ticket) -> None:
        if ticket.is_settled:
            return
        now = time.monotonic()
        if not ticket.is_late(now):
            assert self.loop is not None
            self._deadlines.add(ticket, self.loop)
            return
        self.end_late(ticket, "", now)

    def _whereabouts(self, ticket: Ticket, now: float) -> str:
        stage, status_page = self.stages[ticket.step], self._arena.status
        if ticket.holder != IN_RUN:
            return whereabouts(stage, ticket, status_page, now)
        shared, others = self._coalescing.ticket_of(ticket)
        where = whereabouts(stage, shared, status_page, now)
        return f"sharing a run with {others} other tasks, which was {where}" if others else where
