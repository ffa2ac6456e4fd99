"""A guest: one API process, as the pipeline process sees it."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from ...exceptions import AqueductError
from ...logger import log
from ...reports import RawStep
from ..marks import NO_MARKS, Marks
from ..memory.flow_memory import FlowMemory
from ..memory.layout import Ref
from ..route import FINISHED
from ..scheduling.dispatcher import Dispatcher
from ..scheduling.entry import Entry
from ..wait import DetachedWait, Wait
from ..wire.channel import Channel
from ..wire.codec import Encoded, new_tuple
from ..wire.failures import encode_error
from ..wire.frames import (
    Envelope,
    Kind,
    ProtocolError,
    Status,
    pack,
    pack_batches,
    pack_offsets,
    unpack_batches,
    unpack_marks,
    unpack_offsets,
    unpack_pairs,
)
from .guest_tickets import GuestOutlet, GuestReceiver, GuestStreamTicket, GuestTicket
from .numbers import MOST, number_of
from .step_records import pack_records

MOST_WAITING = 1000
"""Pieces that may wait to be sent to an API process before log records are dropped."""

_STATUSES = (Status.OK, Status.STREAM)


class GuestRequests(Protocol):
    """Handles the frames of guests that are not about tasks."""

    def handle(self, guest: Guest, kind: Kind, payload: bytes) -> None:
        """Handle a frame.

        Raises:
            ProtocolError: It makes no sense.
        """


class Guest:
    """One API process, as the pipeline process sees it.

    Its tasks are those of the dispatcher; their large fields lie in the region of this guest. The blocks of results and
    items are lent: they are held until the guest returns them or is gone.

    Args:
        sock: The connection, after the greeting.
        pidfd: Refers to the API process; -1 where the system has no such descriptors. Closed by this object. A process
            that dies with unread bytes in its socket may never be seen by the socket alone (uvloop).
        pid: Its process id.
        number: Counts the API processes from 1 since the start of the pipeline.
        region: The number of the region that it allocates in.
        blocks: The blocks of that region that are in use.
        dispatcher: The owner of all tasks.
        entry: Refuses its tasks, or has them wait.
        memory: The shared memory.
        requests: Handles its other frames.
        on_change: Called when frames have been handled, and before answers are sent.
        on_gone: Called once with this object when the API process is gone. `hang_up` must follow.

    Attributes:
        pid: As given.
        number: As given.
        region: As given.
        has_left: Whether it has sent LEAVE.
    """

    def __init__(
        self,
        sock: socket.socket,
        pidfd: int,
        pid: int,
        number: int,
        region: int,
        blocks: Iterable[int],
        dispatcher: Dispatcher,
        entry: Entry,
        memory: FlowMemory,
        requests: GuestRequests,
        on_change: Callable[[], None],
        on_gone: Callable[[Guest], None],
    ) -> None:
        self.pid = pid
        self.number = number
        self.region = region
        self.has_left = False
        self._pidfd = pidfd
        self._dispatcher = dispatcher
        self._entry = entry
        self._ledger = memory.ledger
        self._layout = memory.arena.layout
        self._memory = memory
        self._requests = requests
        self._on_change = on_change
        self._on_gone = on_gone
        self._echoes = dispatcher.expect_echoes()
        self._channel = Channel(sock, self._receive, self._end, self._distrust)
        self._indices = {stage.name: index for index, stage in enumerate(dispatcher.stages)}
        self._levels = dispatcher.stages[0].queue.levels
        self._receivers: dict[int, tuple[int, GuestReceiver | GuestOutlet]] = {}
        self._waiting: dict[int, DetachedWait[None]] = {}
        self._sent: Counter[int] = Counter(iter(blocks))
        """How often it has sent each block of its region since it was last told that the block is free: it may send the
        block again while it is being told."""
        self._lent: Counter[int] = Counter()
        self._items: list[Envelope] = []
        self._answers: list[Envelope] = []
        self._flush_handle: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def in_flight(self) -> int:
        """Number of its tasks that are not settled."""
        return len(self._receivers) + len(self._waiting)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve it in an event loop."""
        self._loop = loop
        self._channel.attach(loop)
        if self._pidfd >= 0:
            loop.add_reader(self._pidfd, self._end)
        self._dispatcher.guests.add(self)
        self._ledger.listeners[self.region] = self._schedule

    def close(self) -> None:
        """End its tasks, and take back what it was lent. Its blocks that others use stay."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        self._dispatcher.forget_guest(self)
        self._echoes.note_tasks(self.number)
        del self._ledger.listeners[self.region]
        self._channel.detach()
        if self._pidfd >= 0:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        for waiting in list(self._waiting.values()):
            waiting.cancel()
        for task in list(self._receivers):
            self._withdraw(task)
        for offset, count in self._lent.items():
            for _ in range(count):
                self._ledger.drop_block(offset)
        self._lent.clear()

    def hang_up(self) -> None:
        """Close the connection."""
        self._channel.close()

    def send(self, data: bytes) -> None:
        """Send packed frames."""
        if self._loop is not None:
            self._channel.send(data)

    def post(self, kind: Kind, payload: bytes) -> None:
        """Send a frame."""
        self.send(pack(kind, payload))

    def is_behind(self) -> bool:
        """Tell whether it does not read, and more waits than the socket holds."""
        return self._channel.waiting > 0

    def is_swamped(self) -> bool:
        """Tell whether so much waits for it that log records should be dropped."""
        return self._channel.waiting > MOST_WAITING

    def send_released(self, released: list[int]) -> None:
        """Send which blocks of its region are free again, each with the number of times that it has sent it."""
        numbers = []
        for offset in released:
            # It may have sent the block again meanwhile: then it learns when the block is free the next time.
            if not self._ledger.is_held(offset) and (count := self._sent.pop(offset, 0)):
                numbers += [offset, count]
        if numbers:
            self.send(pack(Kind.RELEASE, pack_offsets(numbers)))

    def answer(self, task: int, content: Encoded, records: tuple[RawStep, ...]) -> None:
        """Send the result of a task; see `Answers.answer`."""
        self.lend(content.blocks)
        packed = pack_records(records, self._indices)
        self._add_answer(task, Status.OK, new_tuple(Encoded, (packed, content.body, content.blocks, b"")))

    def finish(self) -> None:
        """Send the results of tasks that have ended; see `Answers.finish`."""
        if self._receivers:
            self._schedule()
        else:
            self._flush()  # it waits for nothing else

    def lend(self, blocks: Iterable[Ref]) -> None:
        """Hold blocks for it until it returns them."""
        blocks = tuple(blocks)
        if blocks:
            self._ledger.hold(blocks)
            self._lend(blocks)

    def fail(self, task: int, error: BaseException, records: tuple[RawStep, ...] = ()) -> None:
        """Send the error of a task; see `Answers.fail`."""
        self._add_answer(task, Status.ERROR, Encoded(pack_records(records, self._indices), encode_error(error), ()))
        self.finish()

    def send_item(self, task: int, item: Encoded) -> None:
        """Send an item of a task; see `Answers.send_item`."""
        self._lend(item.blocks)
        self._items.append(Envelope(task, 0.0, FINISHED, Status.OK, item))
        self._schedule()

    def _add_answer(self, task: int, status: Status, content: Encoded) -> None:
        self._receivers.pop(task, None)
        self._answers.append(new_tuple(Envelope, (task, 0.0, FINISHED, status, content, b"")))

    def _lend(self, blocks: Iterable[Ref]) -> None:
        for ref in blocks:
            self._lent[ref.offset] += 1

    def _schedule(self) -> None:
        if self._flush_handle is None and self._loop is not None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        frames = b""
        if self._items:
            frames = pack(Kind.ITEMS, pack_batches([(self._items, 0.0, 0, 0)]))
            self._items = []
        if self._answers:
            self._on_change()
            self._echoes.note_answers(self.number, time.monotonic())
            frames += pack(Kind.ANSWERS, pack_batches([(self._answers, 0.0, 0, 0)]))
            self._answers = []
        if frames:
            self.send(frames)
        if released := self._ledger.pop_released(self.region):
            self.send_released(released)  # after the answers: it looks at the blocks no more than they do

    def _receive(self, frames: list[tuple[Kind, bytes]]) -> None:
        try:
            for kind, payload in frames:
                if self._loop is not None:
                    self._handle(kind, payload)
            self._on_change()
        except ProtocolError as exc:
            self._distrust(exc)
        except Exception as exc:  # as of a worker: bytes that look like a frame, or a defect that must not pass unseen
            log.error("a message from API process %d has failed: %s", self.pid, traceback.format_exc())
            self._distrust(exc)

    def _handle(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.TASKS:
            now = time.monotonic()
            self._echoes.note_tasks(self.number)
            for batch in unpack_batches(payload):
                if not 0.0 <= batch.duration < math.inf:
                    raise ProtocolError(f"tasks have waited for {batch.duration} s")
                for envelope in batch.envelopes:
                    self._accept(envelope, batch.size, now - batch.duration, now)
        elif kind is Kind.CANCEL:
            for task in unpack_offsets(payload):
                self._withdraw(task)
        elif kind is Kind.RELEASED:
            self._take_back(unpack_pairs(payload))
        elif kind is Kind.GRANT:
            for task, weight in unpack_pairs(payload):
                self._grant(task, weight)
        elif kind is Kind.FULL:
            self._dispatcher.reclaim_for(self)
        elif kind is Kind.TRIMMED:
            self._memory.waiters.notify()
        elif kind is Kind.LEAVE:
            self.has_left = True
            self._end()
        else:
            self._requests.handle(self, kind, payload)

    def _accept(self, envelope: Envelope, level: int, started_at: float, now: float) -> None:
        task, deadline, step, status, content, packed = envelope
        if not (self._dispatcher.route.may_begin(step) and level < self._levels and status in _STATUSES):
            raise ProtocolError(f"there is no step {step}, no level {level} or no status {status}")
        if task > MOST or not math.isfinite(deadline):
            raise ProtocolError(f"no task has the number {task} and the deadline {deadline}")
        if task in self._receivers or task in self._waiting:
            raise ProtocolError(f"there is a task {task} already")
        marks = unpack_marks(packed) if packed else NO_MARKS
        if content.blocks:
            self._note_sent(content.blocks)
        try:
            has_place = self._entry.has_place(step, level, deadline - now, None, marks)
        except AqueductError as exc:
            self._refuse(task, content, exc)
            return
        key = marks.coalesce_key if status != Status.STREAM else b""
        if has_place or self._entry.follows(step, key):
            self._submit(envelope, level, started_at, marks)
            return
        self._ledger.hold(content.blocks)
        wait = DetachedWait(self._wait(envelope, level, started_at, marks), _ignore, partial(self.fail, task))
        self._waiting[task] = wait
        wait.advance()

    def _note_sent(self, blocks: tuple[Ref, ...]) -> None:
        unknown = self._ledger.find_unknown(blocks, self.region)
        if unknown is not None:
            raise ProtocolError(f"there is no block of {unknown.size} bytes at {unknown.offset}")
        for ref in blocks:
            if self._layout.region_of(ref.offset) == self.region:
                self._sent[ref.offset] += 1

    def _refuse(self, task: int, content: Encoded, error: BaseException) -> None:
        self._ledger.hold(content.blocks)  # so that it learns that they are free
        self._ledger.drop(content.blocks)
        self.fail(task, error)

    def _wait(self, envelope: Envelope, level: int, started_at: float, marks: Marks) -> Wait[None]:
        task, blocks = envelope.id, envelope.content.blocks
        try:
            yield from self._entry.wait(envelope.step, level, envelope.deadline, marks)
            self._submit(envelope, level, started_at, marks)
        finally:
            self._waiting.pop(task, None)
            self._ledger.drop(blocks)

    def _submit(self, envelope: Envelope, level: int, started_at: float, marks: Marks) -> None:
        task, deadline, step, status, content, _ = envelope
        number = number_of(self.number, task)
        ticket: GuestTicket | GuestStreamTicket
        if status == Status.STREAM:
            outlet = GuestOutlet(self, task)
            self._receivers[task] = number, outlet
            ticket = outlet.ticket = GuestStreamTicket(number, None, outlet, content, level, deadline, started_at)
        else:
            receiver = GuestReceiver(self, task)
            self._receivers[task] = number, receiver
            ticket = receiver.ticket = GuestTicket(number, None, receiver, content, level, deadline, started_at)
        ticket.marks = marks
        self._dispatcher.own(ticket, step)

    def _withdraw(self, task: int) -> None:
        waiting = self._waiting.get(task)
        if waiting is not None:
            waiting.cancel()
            return
        number, receiver = self._receivers.pop(task, (0, None))
        if receiver is not None:  # else the cancellation has crossed the answer
            receiver.leave()
            self._dispatcher.withdraw(number)

    def _take_back(self, counts: Iterable[tuple[int, int]]) -> None:
        for offset, count in counts:
            left = self._lent[offset] - count
            if left < 0:
                raise ProtocolError(f"block {offset} is returned and was not lent")
            if left:
                self._lent[offset] = left
            else:
                del self._lent[offset]
            for _ in range(count):
                self._ledger.drop_block(offset)

    def _grant(self, task: int, weight: int) -> None:
        number, receiver = self._receivers.get(task, (0, None))
        if isinstance(receiver, GuestOutlet):  # else the grant has crossed the answer
            receiver.take(weight)
            self._dispatcher.streams.grant(number, receiver)

    def _distrust(self, error: Exception) -> None:
        # Its text: a log record may be kept, and the frames of the error refer to the pipeline.
        log.error("API process %d is cut off: it has sent an invalid message: %s", self.pid, str(error))
        self._end()

    def _end(self) -> None:
        if self._loop is not None:
            self.close()
            self._on_gone(self)


def _ignore(result: None) -> None:
    """Handle the end of a wait after which the task is submitted."""
