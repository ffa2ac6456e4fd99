"""Owns every task from arrival to answer.

    process() ─▶ submit ─▶ queue of a step ─▶ worker ─▶ answer ─┬─▶ queue of the next step ─▶ ...
                                                                └─▶ settle ─▶ the caller's task is filled in

Runs in the event loop of the API process: no locks, no threads. Who of the tasks that wait goes to which worker, and
when, is the business of the `Feeder`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time

from ...exceptions import ArenaFull, NotRunningError, TaskTimeout, WorkerDied
from ...step import FlowStep
from ...task import BaseTask
from ..child.worker import next_step
from ..memory.arena import Ref
from ..memory.ledger import Ledger
from ..timing import DEFAULT_TIMING, Timing
from ..wire.codec import Codec, Encoded
from ..wire.failures import decode_error, unreadable
from ..wire.frames import FINISHED, Batch, Envelope, Kind, ProtocolError, Status, unpack_batches, unpack_offsets
from ..workers.awake import AWAKE
from ..workers.handle import WorkerLink
from .admission import Admission
from .deadlines import Deadlines
from .idle import Rest
from .reclaim import Relief
from .retention import Retention
from .retries import Retries
from .scheduler import Feeder
from .stage import StepDesk
from .ticket import Receiver, Record
from .whereabouts import late_answer, outside, whereabouts


class Dispatcher:
    """Takes tasks through the steps of a flow.

    Args:
        name: Name of the flow.
        steps: Its steps, each with its name.
        ledger: Who holds which block.
        queue_size: Tasks that may wait for a step, in each level.
        priorities: Number of priority levels.
        timing: When a step counts as broken, hanging, or given up.

    Attributes:
        desks: The steps.
        outcomes: How many tasks ended how.
    """

    def __init__(
        self,
        name: str,
        steps: list[tuple[str, FlowStep]],
        ledger: Ledger,
        queue_size: int,
        priorities: int,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self.name = name
        self.desks = [StepDesk(step_name, step, queue_size, priorities, timing) for step_name, step in steps]
        self.outcomes = dict.fromkeys(("completed", "failed", "timed_out", "cancelled"), 0)
        self._conditions = [step.handle_condition for _, step in steps]
        self._ledger = ledger
        self._codec = Codec(ledger.arena)
        self._queue_size = queue_size
        self._ids = itertools.count(1)
        self._records: dict[int, Record] = {}
        self._deadlines = Deadlines(self._time_out)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._feeder = Feeder(self.desks, ledger, queue_size)
        self._admission = Admission(name, self.desks, queue_size)
        self._relief = Relief(self.desks, ledger)
        self._rest = Rest(self._records, self._relief.give_back)
        ledger.on_full = self._relief.make_room
        self._retries = Retries(ledger, self._settle)
        self._retention = Retention(ledger)

    @property
    def in_flight(self) -> int:
        """Number of tasks that are not settled."""
        return len(self._records)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop, on the tasks too that other threads have handed to an earlier one."""
        self.detach("its event loop has ended", handed=False)
        self._loop = loop
        for record in self._records.values():
            self._deadlines.add(record, loop)
        self._feeder.attach(loop)

    def detach(self, reason: str, handed: bool = True) -> None:
        """Stop working in an event loop, and end tasks as `abandon` does."""
        self._loop = None
        self._feeder.detach()
        self.abandon(reason, handed)
        self._deadlines.clear()
        self._ledger.leave()

    async def process(self, task: BaseTask, timeout: float, receiver: Receiver | None = None) -> int:
        """Take a task through the flow and fill it in.

        Args:
            task: The task.
            timeout: Seconds in which the answer must come.
            receiver: Gets the end of it, in place of the present coroutine, which only takes it into the flow.

        Returns:
            Its number, for `withdraw`; 0 when there was nothing to do.

        Raises:
            TaskTimeout: The answer did not come in time.
            StepUnavailable: A step has no ready worker, and will not have one before the deadline.
            NotRunningError: The flow was stopped meanwhile.
            WorkerDied: Workers died with it in their hands, more of them than the step puts up with.
            Exception: What the handler raised.

        A cancellation takes the task out of the queue; a worker that has it already goes on, and its answer is
        dropped.
        """
        started_at = time.monotonic() if receiver is None else receiver.started_at
        step = 0 if self._conditions[0](task) else next_step(self._conditions, 1, task)
        if step == FINISHED:
            return 0
        if self._admission.unavailable:
            self._admission.check_workers(timeout)
        deadline = started_at + timeout
        desk = self.desks[step]
        queue = desk.queue
        level = queue.level(task.priority) if task.priority != 0 else 0
        # The first two questions are cheap, and nearly always enough.
        if (desk.entry.contenders or queue.count >= self._queue_size) and not desk.entry.has_place(level):
            await self._wait_for_entry(desk, level, deadline)
        loop = self._loop
        if loop is None:
            raise NotRunningError(f"flow {self.name} was stopped")
        if self._ledger.arena.mapping.dropped:
            self._ledger.arena.collect()  # results that callers have let go make room for this one, warm
        try:
            content = self._codec.encode(task)
        except ArenaFull as exc:
            content = await self._encode_with_room(task, exc, deadline)
        future = loop.create_future()
        record = Record(next(self._ids), task, receiver or future, content, level, deadline, started_at)
        if content.blocks:
            self._ledger.hold(content.blocks)
        self._records[record.id] = record
        self._deadlines.add(record, loop)
        self._enqueue(record, step, started_at)
        if receiver is None:
            try:
                await future
            except asyncio.CancelledError:
                self._settle(record, "cancelled", None)
                raise
            finally:
                del future
        return record.id

    def withdraw(self, number: int) -> None:
        """End a task that its caller does not wait for any more."""
        record = self._records.get(number)
        if record is not None:
            self._settle(record, "cancelled", None)

    def check_entry(self, priority: int, timeout: float) -> None:
        """Refuse a task that could not go straight into the queue, or not be done in time.

        Raises:
            StepUnavailable: A step has no ready worker.
            QueueFull: The queue of the first step is full.
            DeadlineUnreachable: At the measured rate it would take longer than ``timeout`` seconds.
        """
        self._admission.check(priority, timeout, is_idle=not self._records)

    def note_workers(self, index: int) -> None:
        """Take in that a step has got or lost a worker."""
        self._admission.note_workers(index)
        self._feeder.schedule()

    def receive(self, link: WorkerLink, kind: Kind, payload: bytes) -> None:
        """Take in a frame from a worker.

        Raises:
            ProtocolError: The frame makes no sense.
        """
        if kind is Kind.ANSWERS:
            for batch in unpack_batches(payload):
                self._take_answers(link, batch)
            self._feeder.refill(link)
            for desk in self.desks:
                if desk.queue.count:
                    self._feeder.schedule()
                    break
        elif kind is Kind.RETAINED:
            self._retention.hold(link, unpack_offsets(payload))
        elif kind is Kind.RELEASED:
            self._retention.drop(link, unpack_offsets(payload))
        elif kind is Kind.FULL:
            self._ledger.arena.collect_garbage()
            self._relief.make_room(link)
        elif kind is Kind.TRIMMED:
            self._ledger.notify_room()
        elif kind is Kind.READY:
            self.note_workers(link.step)
        else:
            raise ProtocolError(f"a worker does not send frames of kind {kind.name}")

    def remove(self, link: WorkerLink, error: WorkerDied) -> bool:
        """Take a worker off that is gone: what it had begun is tried again or fails, what it had not waits again.

        Args:
            link: The worker; its last answers have been taken in.
            error: What the callers of tasks that fail get.

        Returns:
            Whether it died with a task in hand with which another worker has died before.
        """
        desk = self.desks[link.step]
        desk.part_with(link)
        is_repeated = self._retries.take_over(desk, link, error)
        self._retention.drop_all(link)
        self.note_workers(link.step)
        return is_repeated

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no task is left.

        Returns:
            Whether that came about within ``timeout`` seconds.
        """
        return await self._rest.wait(timeout)

    def abandon(self, reason: str, handed: bool = True) -> None:
        """End every task with `NotRunningError`.

        Args:
            reason: Why.
            handed: Whether those too whose callers are in other threads, and wait on.
        """
        for record in list(self._records.values()):
            future = record.future
            if not handed and future is not None and not asyncio.isfuture(future) and not future.done():
                continue
            with contextlib.suppress(RuntimeError):  # its event loop is closed, so nobody can wait for it any more
                self._settle(record, "cancelled", NotRunningError(f"the task ended with flow {self.name}: {reason}"))
        self._rest.cancel()
        for desk in self.desks:
            desk.entry.close()

    async def _encode_with_room(self, task: BaseTask, full: ArenaFull, deadline: float) -> Encoded:
        while True:
            await self._ledger.wait_for_room(full, deadline)
            if self._loop is not asyncio.get_running_loop():
                raise NotRunningError(f"flow {self.name} was stopped while the task waited for room, or its event loop")
            try:
                return self._codec.encode(task)
            except ArenaFull as exc:
                full = exc

    def _enqueue(self, record: Record, step: int, now: float) -> None:
        record.step = step
        record.arrived_at = now
        link = self._feeder.give(record, now)
        if link is None:
            record.is_waiting = True
            self.desks[step].queue.push(record)
            self._feeder.schedule()
        elif len(self._records) == 1 and link.is_brief:
            link.stay_awake(AWAKE)

    async def _wait_for_entry(self, desk: StepDesk, level: int, deadline: float) -> None:
        has_place = await desk.entry.wait(level, deadline)
        if has_place is None:
            raise NotRunningError(f"flow {self.name} was stopped while the task waited for a place, or its event loop")
        if not has_place:
            self.outcomes["timed_out"] += 1
            raise TaskTimeout(f"timeout of a task in flow {self.name}: it was {outside(desk)}")

    def _take_answers(self, link: WorkerLink, batch: Batch) -> None:
        if not link.batches:
            raise ProtocolError("an answer to no batch")
        envelopes, duration, _ = batch
        now = time.monotonic()
        has_run = not (envelopes and envelopes[0].status) or any(item.status != Status.EXPIRED for item in envelopes)
        records, duration = link.take_back(duration, now, has_run)
        desk = self.desks[link.step]
        count = len(records)
        size = min(count, desk.queue.batch_size)
        if desk.patience is not None and has_run and link.handled > count:  # the first call may be slower by far
            desk.patience.note_call(size, duration)
        try:
            if len(envelopes) != count:
                raise ProtocolError(f"{len(envelopes)} answers to {count} tasks")
            for record, envelope in zip(records, envelopes, strict=True):
                id, _, step, status, content = envelope
                if record.id != id:
                    raise ProtocolError("an answer to another task than was sent")
                if not status:
                    if content.blocks != record.content.blocks:
                        self._replace_blocks(record, content.blocks)
                    record.content = content
                record.holder = 0
                record.metrics += ((link.name, now - record.arrived_at - duration, duration, size),)
                if record.is_settled:
                    self._ledger.drop(record.content.blocks)
                elif now >= record.deadline and not self._deadlines.forgive(now):
                    self._end_late(record, late_answer(link, record, status, duration, now), now)
                elif status:
                    self._take_failure(link, record, envelope)
                elif step == FINISHED:
                    self._finish(record, now)
                elif link.step < step < len(self.desks):
                    self._enqueue(record, step, now)
                else:
                    record.holder = link.pid
                    raise ProtocolError(f"a task cannot go from step {link.step} to step {step}")
        except Exception:
            # The worker is ended for it; its death takes care of the tasks that have no answer yet.
            link.give_back([record for record in records if record.holder])
            raise

    def _take_failure(self, link: WorkerLink, record: Record, envelope: Envelope) -> None:
        if envelope.status == Status.EXPIRED:  # for the worker; its deadline has moved because of a pause meanwhile
            self._enqueue(record, record.step, time.monotonic())
            return
        where = f"step {link.name} of flow {self.name} (pid {link.pid})"
        self._settle(record, "failed", decode_error(envelope.content.body, where))

    def _replace_blocks(self, record: Record, blocks: tuple[Ref, ...]) -> None:
        self._ledger.check(blocks)
        # In this order: a block that is in both must not become free between the two.
        self._ledger.hold(blocks)
        self._ledger.drop(record.content.blocks)

    def _finish(self, record: Record, now: float) -> None:
        task = record.task
        assert task is not None
        try:
            self._codec.decode_into(task, record.content)
        except Exception as exc:
            # No local name for the error: its cause refers to this frame, and as a cycle they would keep the blocks.
            self._settle(record, "failed", unreadable(self.name, exc))
            return
        task.__dict__["_metrics"] = record.metrics, now - record.started_at
        self._settle(record, "completed", None)

    def _settle(self, record: Record, outcome: str, error: Exception | None) -> None:
        """End a task: the one place where its future is resolved and its blocks are dropped."""
        if record.is_settled:
            return
        record.is_settled = True
        record.task = None
        self.outcomes[outcome] += 1
        del self._records[record.id]
        self._deadlines.remove(record)
        if record.is_waiting:
            record.is_waiting = False
            desk = self.desks[record.step]
            desk.queue.forget(record)
            if desk.entry.contenders:
                desk.entry.open()
        if not record.holder and record.content.blocks:
            self._ledger.drop(record.content.blocks)
        future, record.future = record.future, None
        if future is not None and not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        if not self._records:
            self._rest.begin(self._loop)

    def _time_out(self, record: Record) -> None:
        if record.is_settled:
            return
        now = time.monotonic()
        self._end_late(record, whereabouts(self.desks[record.step], record, self._ledger.arena, now), now)

    def _end_late(self, record: Record, where: str, now: float) -> None:
        message = f"timeout of a task after {now - record.started_at:.3f} s in flow {self.name}: it was {where}"
        self._settle(record, "timed_out", TaskTimeout(message))
