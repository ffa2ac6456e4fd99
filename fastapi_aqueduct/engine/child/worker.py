"""What every runner of a worker process works with: frames, shared memory, and the encoding of tasks."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ...exceptions import ArenaFull
from ...runtime import RUNTIME, drop_runtime
from ...task import BaseTask
from ..memory.layout import Ref
from ..memory.tenant import Tenant
from ..route import FINISHED, Route
from ..system.malloc import trim_heap
from ..wire.codec import Codec, Encoded, new_tuple
from ..wire.failures import encode_error
from ..wire.frames import (
    Batch,
    Envelope,
    Kind,
    Status,
    pack_batches,
    pack_offsets,
    unpack_batches,
    unpack_offsets,
    unpack_pairs,
)
from ..wire.patch import Changes
from ..wire.window import Windows, item_weight
from ..wire.worker_channel import WorkerChannel
from .logs import LogForwarder
from .setup import Setup
from .task_context import TaskContext, reset

MEMORY_TIMEOUT = 1.0
"""Seconds to wait for shared memory to become free before a task fails with `ArenaFull`."""

IDLE_AFTER = 0.01
"""Seconds without a task after which a worker counts as idle, and would run `on_stop` if the API process ended."""

T = TypeVar("T")

_NOTHING = Encoded(b"", b"", ())


class DeathSignal(Protocol):
    """Kills this worker in the middle of a call when the API process ends; see `parent_death.ParentDeathSignal`."""

    def arm(self) -> None:
        """Kill it when the API process ends from now on."""

    def disarm(self) -> None:
        """Let the worker notice the end itself."""


class Worker:
    """Exchanges frames with the API process, and turns envelopes into tasks and tasks into envelopes.

    It runs nothing itself: a runner decides which batch is worked on, and calls the handler.

    Args:
        setup: The settings of this worker.
        route: The route of tasks through the steps.
        channel: The worker's end of the channel.
        tenant: The shared memory.
        parent_death_signal: Kills this process in the middle of a call when the API process ends.
        logs: Forwards what user code logs; None if that is not forwarded.

    Attributes:
        pending: Batches that have arrived and are not begun.
        cancelled: Ids of tasks, pending or in hand, whose callers do not wait for them any more.
        windows: How much of each stream may still be sent.
        paused: Ids of streams of which no more may be sent now.
        items: Items of streams, which leave with the next `flush`.
        answers: Answered batches, which leave with the next `flush`.
        is_stopping: Whether the API process has sent STOP.
        flushed_at: When the last frames left or arrived, on the clock of ``time.monotonic``.
        setup: The settings of this worker.
        channel: The channel; closed in a fork of the worker, which must not go on as a second one.
        parent_death_signal: As given.
        logs: As given.
        context: Sets the context variables and traces of callers; None if neither travels with tasks.
        changes: Finds what the handler changes, where the step answers with patches; else None.
        check: Calls `check` of the handler, and reports what it returns; None: it has none.
        is_between_calls: Tells whether no call of the handler is at a point where a check would disturb it.
        is_check_due: Whether the API process has asked for that.
        note_check: Writes to the status page when a check begins or ends.
        note_call: Writes to the status page with which task, and when, a call of the handler begins. Called before
            tasks are decoded, which may be fatal, too.
    """

    def __init__(
        self,
        setup: Setup,
        route: Route,
        channel: WorkerChannel,
        tenant: Tenant,
        parent_death_signal: DeathSignal,
        logs: LogForwarder | None = None,
    ) -> None:
        self.pending: deque[Batch] = deque()
        self.cancelled: set[int] = set()
        self.windows = Windows()
        self.paused = self.windows.paused
        self.items: list[Envelope] = []
        self.answers: list[Batch] = []
        self.is_stopping = False
        self.flushed_at = 0.0
        self.setup = setup
        self.channel = channel
        self.parent_death_signal = parent_death_signal
        self.logs = logs
        self.context: TaskContext | None = None
        self.check: Callable[[], None] | None = None
        self.is_between_calls: Callable[[], bool] = lambda: True
        self.is_check_due = False
        self.note_check = tenant.arena.status.note_check
        self.note_call = tenant.arena.status.note_call
        self._route = route
        self._has_marks = route.has_marks
        self._tenant = tenant
        self._arena = tenant.arena
        self._codec = Codec(tenant.arena)
        self.changes = Changes(self._codec, tenant.arena) if route.sends_patches(setup.step) else None
        self._evaluates_condition = route.is_closed(setup.step)
        self._is_between_branches = self.changes is not None or self._evaluates_condition

    def receive(self) -> None:
        """Wait for frames and process them.

        Raises:
            EOFError: The API process has ended.
        """
        self.process(self.channel.receive(IDLE_AFTER, self.setup.busy_poll) or self._receive_idle())
        self.flushed_at = time.monotonic()

    def check_if_due(self) -> None:
        """Check the handler if the API process has asked for it, at a point where no call of it is under way."""
        if self.is_check_due:
            self.is_check_due = False
            self.__dict__.pop("receive", None)
            if self.check is not None:
                self.check()

    def _check_and_receive(self) -> None:
        if self.is_between_calls():
            self.check_if_due()
            self.receive()
        else:
            Worker.receive(self)

    def forget_ended(self) -> None:
        """Forget which tasks were cancelled; called when none is in hand or pending.

        A cancellation may cross the answer of its task.
        """
        self.cancelled.clear()

    def look(self) -> None:
        """Process the frames that have arrived, without waiting for any."""
        if frames := self.channel.receive(timeout=0):
            self.process(frames)

    def _receive_idle(self) -> list[tuple[Kind, bytes]]:
        # Not for each pause between two tasks: this costs two system calls.
        self.parent_death_signal.disarm()
        frames = self.channel.receive()
        self.parent_death_signal.arm()
        return frames

    def process(self, frames: list[tuple[Kind, bytes]]) -> None:
        """Do what the API process asks for; batches become `pending`."""
        for kind, payload in frames:
            if kind is Kind.TASKS:
                self.pending.extend(unpack_batches(payload))
            elif kind is Kind.CANCEL:
                self.cancelled.update(unpack_offsets(payload))
            elif kind is Kind.GRANT:
                for task, weight in unpack_pairs(payload):
                    self.windows.grant(task, weight)
            elif kind is Kind.RELEASE:
                self._tenant.release(unpack_offsets(payload))
            elif kind is Kind.TRIM:
                # A caller waits for memory, and a cycle that a handler has made may hold some of it.
                if self._tenant.collect_garbage():
                    self.flush()
                self._arena.trim()
                self.channel.send(Kind.TRIMMED)
            elif kind is Kind.RECLAIM:
                trim_heap()
            elif kind is Kind.LEVELS and self.logs is not None:
                self.logs.change_levels(payload)
            elif kind is Kind.CHECK:
                self.is_check_due = True
                # In the place of the method until the check has run: no test for every task.
                self.receive = self._check_and_receive  # type: ignore[method-assign]
            elif kind is Kind.STOP:
                self.is_stopping = True
                self.parent_death_signal.disarm()  # for on_stop

    def flush(self) -> None:
        """Send the items and the answers, and the blocks that user code has retained or released."""
        tenant, send = self._tenant, self.channel.send
        # Before the answers, after which the API process forgets the blocks.
        if tenant.newly_retained:
            send(Kind.RETAINED, pack_offsets(tenant.newly_retained))
            tenant.newly_retained.clear()
        if self.items:
            send(Kind.ITEMS, pack_batches([(self.items, 0.0, 0, 0)]))
            self.items.clear()
        if self.answers:
            send(Kind.ANSWERS, pack_batches(self.answers))
            self.answers.clear()
        if self._arena.mapping.dropped:
            self._arena.collect()
        if tenant.released:
            send(Kind.RELEASED, pack_offsets(tenant.released))
            tenant.released.clear()
        self.flushed_at = time.monotonic()

    def close_batch(self, envelopes: list[Envelope], answers: list[Envelope]) -> None:
        """Note which blocks of a batch user code still looks at. The runner has no reference to its tasks any more.

        Args:
            envelopes: The tasks as they came.
            answers: The tasks as they go.
        """
        if self._arena.mapping.dropped:
            self._arena.collect()
        if self._arena.leases:
            for envelope in (*envelopes, *answers):
                self._tenant.note_retained(envelope.content.blocks)

    def may_run_again(self, envelopes: list[Envelope]) -> bool:
        """Tell whether tasks whose call failed may be run once more: a field shared for writing may be half changed."""
        return self.setup.may_run_again and not any(ref.shared for item in envelopes for ref in item.content.blocks)

    def decode(self, envelope: Envelope, now: float) -> BaseTask | Envelope:
        """Return the task, or the answer to one that is not worked on.

        It has expired, was cancelled, cannot be decoded, or does not meet the condition of this step.
        """
        deadline = envelope.deadline
        is_stream = envelope.status  # the only status on this way that is not OK
        if (deadline <= now and not is_stream) or (self.cancelled and envelope.id in self.cancelled):
            return expired(envelope)
        try:
            task = self._codec.decode(envelope.content)
        except BaseException as exc:  # also SystemExit: a request must not end its worker
            if self.channel.is_closed:
                raise  # a child that code of the user has forked, which would be a second worker
            return _end(envelope, Status.ERROR, encode_error(exc))
        # The deadline of a stream moves with its items, and the API process cancels a task that is late.
        task.expiration_time = None if is_stream else deadline
        return self._admit(envelope, task) if self._is_between_branches else task

    def encode(self, envelope: Envelope, task: BaseTask, failure: bytes) -> Envelope:
        """Make the answer to a task that the handler has worked on.

        Args:
            envelope: The task as it came.
            task: The task as the handler has left it.
            failure: The packed exception of the handler; empty when it raised none.
        """
        if failure or RUNTIME in task.__dict__:
            failed = pop_failure(task)
            if failure or failed is not None:
                return _end(envelope, Status.ERROR, failure or encode_error(failed))
        try:
            if self.context is None and not self._has_marks:
                step, marks = self._route.next(self.setup.step, task), b""
            else:
                step, marks = self._ask_route(envelope, task)
            encode = self._codec.encode_fields if self.changes is None else self.changes.encode
            body, blocks = self.fit(encode, task)
        except BaseException as exc:  # also SystemExit: a request must not end its worker
            if self.channel.is_closed:
                raise  # a child that code of the user has forked, which would be a second worker
            return _end(envelope, Status.ERROR, encode_error(exc))
        if blocks:
            self._tenant.publish(blocks)
        if self.changes is not None:
            return Envelope(envelope.id, envelope.deadline, step, Status.PATCH, Encoded(b"", body, blocks), marks)
        kind, extras = (b"", b"") if step == FINISHED else (envelope.content.kind, envelope.content.extras)
        content = new_tuple(Encoded, (kind, body, blocks, extras))
        return new_tuple(Envelope, (envelope.id, envelope.deadline, step, 0, content, marks))

    def _admit(self, envelope: Envelope, task: BaseTask) -> BaseTask | Envelope:
        """Return a task in or behind a group, or the answer to one that does not meet the condition of this step."""
        try:
            if self._evaluates_condition:
                passed = self._pass(envelope, task)
                if passed is not None:
                    return passed
            if self.changes is not None:
                self.changes.begin(task)
        except BaseException as exc:  # also SystemExit: a request must not end its worker
            if self.channel.is_closed:
                raise  # a child that code of the user has forked, which would be a second worker
            return _end(envelope, Status.ERROR, encode_error(exc))
        return task

    def _pass(self, envelope: Envelope, task: BaseTask) -> Envelope | None:
        """Return the answer to a task that does not meet the condition of this step; None if it meets it."""
        tokens = [] if self.context is None else self.context.set([envelope])
        try:
            if self._route.meets_condition(self.setup.step, task):
                return None
        finally:
            reset(tokens)
        step, marks = self._ask_route(envelope, task)
        return Envelope(envelope.id, envelope.deadline, step, Status.PASSED, _NOTHING, marks)

    def _ask_route(self, envelope: Envelope, task: BaseTask) -> tuple[int, bytes]:
        # For conditions and keys that read the variables.
        tokens = [] if self.context is None else self.context.set([envelope])
        try:
            step = self._route.next(self.setup.step, task)
            return step, self._route.marks(step, task)
        finally:
            reset(tokens)

    def add_item(self, envelope: Envelope, item: Any) -> None:
        """Encode an item of a stream; it leaves with the next `flush`.

        Args:
            envelope: The task as it came.
            item: The item.

        Raises:
            TaskNotPicklable, ArenaFull: The item cannot be sent.
        """
        try:
            body, blocks = self._codec.encode_item(item)
        except ArenaFull:
            body, blocks = self.fit(self._codec.encode_item, item)
        if blocks:
            self.flushed_at = 0.0  # items in blocks do not wait for others: they fill the memory until they are taken
            self._tenant.publish(blocks)
            if self._arena.leases:
                self._tenant.note_retained(blocks)  # code here may look at them longer than the consumer of the item
        content = new_tuple(Encoded, (b"", body, blocks, b""))
        self.items.append(new_tuple(Envelope, (envelope.id, 0.0, FINISHED, 0, content, b"")))
        self.windows.spend(envelope.id, item_weight(content, envelope.content))

    def fit(self, encode: Callable[[T], tuple[bytes, tuple[Ref, ...]]], value: T) -> tuple[bytes, tuple[Ref, ...]]:
        """Lay a value into shared memory; where that is full, wait a moment for some of it to be free.

        Args:
            encode: Returns the body and the blocks of the value.
            value: The value.

        Raises:
            ArenaFull: The memory is still full.
            Exception: Raised by ``encode``.
        """
        deadline = 0.0
        while True:
            try:
                return encode(value)
            except ArenaFull as exc:
                now = time.monotonic()
                deadline = deadline or now + MEMORY_TIMEOUT
                if now >= deadline or exc.size > self.setup.layout.limit:
                    raise
                self.flush()
                self._arena.trim()
                self.channel.send(Kind.FULL)
                self._arena.status.move_start(math.inf)  # a wait for consumers is not the handler's time
                self.process(self.channel.receive(timeout=deadline - now))
                self._arena.status.move_start(time.monotonic())


def pop_failure(task: BaseTask) -> Any:
    """Remove and return the exception of ``task.fail``.

    An exception that was caught refers to the frame of the handler, and that to the task. As a cycle they would keep
    the task's blocks until garbage is collected.
    """
    return drop_runtime(task, "failure")


def expired(envelope: Envelope) -> Envelope:
    """Return the answer to a task whose caller does not wait for it any more."""
    return _end(envelope, Status.EXPIRED)


def _end(envelope: Envelope, status: Status, body: bytes = b"") -> Envelope:
    return Envelope(envelope.id, envelope.deadline, FINISHED, status, Encoded(b"", body, ()) if body else _NOTHING)
