"""The streams of a flow: from the frames of workers to the outlets, and on to the consumers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sized
from typing import Any, Protocol

from ...exceptions import NotRunningError, SlowConsumer, UsageError
from ..memory.arena import Arena
from ..memory.flow_memory import FlowMemory
from ..memory.layout import Ref
from ..wire.codec import Codec, Encoded
from ..wire.failures import unreadable
from ..wire.frames import ProtocolError, unpack_batches
from ..wire.window import GRANT, item_weight
from ..workers.handle import WorkerHandle
from .branches import BranchTicket
from .deadlines import Deadlines
from .meter import Meter
from .outlet import Outlet, StreamTicket
from .stage import Stage
from .ticket import Ticket


class Holds(Protocol):
    """The holds on the blocks of items."""

    def drop(self, refs: Iterable[Ref]) -> None:
        """End holds."""


class ItemSpans(Protocol):
    """The spans of the tasks that are traced.

    Attributes:
        open: Those of the tasks that are not settled, by id.
    """

    @property
    def open(self) -> Sized:
        """As above."""

    def note_item(self, ticket: Ticket) -> None:
        """Note an item of a stream, which a task or a branch of it has sent."""


class Streams(ABC):
    """Delivers items to their consumers, and grants their senders more when the consumers have taken some.

    Args:
        name: Name of the flow.
        arena: Its shared memory.
        holds: The holds on blocks.
        tickets: The tasks that are not settled, by id.
        deadlines: Their deadlines.
        settle: Ends a task with an outcome and an error.
        spans: The spans of the tasks that are traced.
        meter: Measures the flow; None: nothing does.

    Attributes:
        has_ended: Whether `end_all` has been called.
    """

    def __init__(
        self,
        name: str,
        arena: Arena,
        holds: Holds,
        tickets: dict[int, Ticket],
        deadlines: Deadlines[Ticket],
        settle: Callable[[Ticket, str, Exception | None], None],
        spans: ItemSpans,
        meter: Meter | None = None,
    ) -> None:
        self._name = name
        self._arena = arena
        self._holds = holds
        self._codec = Codec(arena)
        self._tickets = tickets
        self._deadlines = deadlines
        self._settle = settle
        self._meter = meter
        self._spans = spans
        self._abandoned: deque[tuple[int, Outlet]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.has_ended = False

    def pop_item(self, number: int, outlet: Outlet) -> Any:
        """Remove the oldest item of an outlet and return it, for its consumer.

        Args:
            number: Id of the task.
            outlet: Its outlet, which has an item.

        Raises:
            UsageError: Another event loop drives the flow.
            HandlerError: It cannot be rebuilt in this process.
        """
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise UsageError(f"this stream has begun in another event loop, that of flow {self._name}: read it there")
        item = outlet.pop(time.monotonic())
        try:
            return self._codec.decode_item(item)
        except Exception as exc:
            raise unreadable(self._name, exc) from exc
        finally:
            if item.blocks:
                self._holds.drop(item.blocks)
            if outlet.consumed >= GRANT:
                self.grant(number, outlet)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self._loop = loop
        self._end_abandoned()

    def detach(self) -> None:
        """Stop working in an event loop."""
        self._loop = None

    def end(self, number: int, outlet: Outlet) -> None:
        """End a stream whose consumer has left, and release its items; as `end_later` in another thread.

        Args:
            number: Id of the task; 0 if it was not submitted.
            outlet: Its outlet.
        """
        if not self._is_here():
            self.end_later(number, outlet)
            return
        ticket = self._tickets.get(number)
        if ticket is not None:
            self._settle(ticket, "cancelled", None)
        self._discard(outlet)

    def end_later(self, number: int, outlet: Outlet) -> None:
        """As `end`, from any thread and at any moment: in the next turn of the event loop, if need be of the next one.

        Args:
            number: Id of the task; 0 if it was not submitted.
            outlet: Its outlet.
        """
        self._abandoned.append((number, outlet))
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self._end_abandoned)

    def _end_abandoned(self) -> None:
        while self._abandoned and self._is_here():  # a loop that was stopped may run again when another one drives
            self.end(*self._abandoned.popleft())

    def _is_here(self) -> bool:
        try:
            return self._loop is asyncio.get_running_loop()
        except RuntimeError:
            return False

    def _discard(self, outlet: Outlet) -> None:
        for item in outlet.pop_all():
            self._holds.drop(item.blocks)

    def check(self) -> None:
        """Refuse a stream after `end_all`.

        Raises:
            NotRunningError: The streams have been ended.
        """
        if self.has_ended:
            raise self._end_error()

    def end_all(self) -> None:
        """End every open stream, and each that is submitted later, with `NotRunningError`. Other tasks go on."""
        self.has_ended = True
        for ticket in list(self._tickets.values()):
            if isinstance(ticket, StreamTicket):
                self._settle(ticket, "cancelled", self._end_error())

    def _end_error(self) -> NotRunningError:
        return NotRunningError(f"flow {self._name} has ended its streams: its server stops")

    def _deliver(self, step: str, ticket: StreamTicket, sender: Ticket, item: Encoded, now: float) -> None:
        """Give an item to its consumer.

        Args:
            step: Name of the step that has sent it.
            ticket: The task.
            sender: The same; in a group, the branch that has sent it.
            item: The item.
            now: The time on the clock of ``time.monotonic``.
        """
        outlet = ticket.receiver
        assert isinstance(outlet, Outlet)
        if self._meter is not None:
            self._meter.note_item(ticket.started_at, outlet.arrived_at, now)
        if not outlet.has_items:
            self._deadlines.move(ticket, now + outlet.item_timeout)
        if self._spans.open:
            self._spans.note_item(sender)
        weight = item_weight(item, sender.content)
        if isinstance(sender, BranchTicket):
            sender.unconsumed += weight
        outlet.put(item, weight, now)
        if outlet.is_over:
            waiting = len(outlet)
            self._discard(outlet)
            self._settle(ticket, "failed", SlowConsumer(_too_slow(self._name, step, waiting)))

    @abstractmethod
    def grant(self, number: int, outlet: Outlet) -> None:
        """Let the sender of a stream send as much more as its consumer has taken.

        Args:
            number: Id of the task.
            outlet: Its outlet.
        """


class WorkerStreams(Streams):
    """The streams of a flow whose workers answer to this process.

    Args:
        name: Name of the flow.
        stages: Its steps.
        memory: Its shared memory.
        tickets: As for `Streams`, like the following.
        deadlines: As above.
        settle: As above.
        spans: As above.
        meter: As above.
    """

    def __init__(
        self,
        name: str,
        stages: list[Stage],
        memory: FlowMemory,
        tickets: dict[int, Ticket],
        deadlines: Deadlines[Ticket],
        settle: Callable[[Ticket, str, Exception | None], None],
        spans: ItemSpans,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(name, memory.arena, memory.ledger, tickets, deadlines, settle, spans, meter)
        self._stages = stages
        self._ledger = memory.ledger

    def receive(self, worker: WorkerHandle, payload: bytes) -> None:
        """Deliver the items of a frame.

        Raises:
            ProtocolError: The frame makes no sense.
        """
        now = time.monotonic()
        has_blocks = False
        for batch in unpack_batches(payload):
            for envelope in batch.envelopes:
                item = envelope.content
                if item.blocks:
                    has_blocks = True
                    self._hold(worker, item)
                ticket = self._tickets.get(envelope.id)
                if ticket is None:  # it has ended while the item was on its way
                    self._ledger.drop(item.blocks)
                    continue
                sender = ticket.in_hands_of(worker.pid, worker.step)
                if isinstance(ticket, StreamTicket) and sender is not None and item.body:
                    self._deliver(worker.name, ticket, sender, item, now)
                else:
                    self._ledger.drop(item.blocks)
                    raise ProtocolError(f"an item of task {envelope.id}, which has none or is not there")
        if has_blocks:
            # Until its stream ends no other frame may go to this worker, which needs the memory again.
            worker.send_released(self._pop_released(worker))

    def grant(self, number: int, outlet: Outlet) -> None:
        """Let the worker of a stream send more; see `Streams.grant`."""
        weight, outlet.consumed = outlet.consumed, 0
        ticket = self._tickets.get(number)
        if ticket is None:
            return
        shares = [(ticket, weight)] if ticket.group is None else ticket.group.share(weight)
        for sender, part in shares:
            if not sender.holder:  # its next worker begins with a whole window
                continue
            for worker in self._stages[sender.step].pool.all_workers():
                if worker.pid == sender.holder:
                    worker.grant(number, part, self._pop_released(worker))

    def _pop_released(self, worker: WorkerHandle) -> list[int]:
        if self._arena.mapping.dropped:
            self._arena.collect()  # the items that the consumer has dropped
        return self._ledger.pop_released(worker.region)

    def _hold(self, worker: WorkerHandle, item: Encoded) -> None:
        unknown = self._ledger.find_unknown(item.blocks, worker.region)
        if unknown is not None:
            raise ProtocolError(f"there is no block of {unknown.size} bytes at {unknown.offset}")
        self._ledger.hold(item.blocks)


def _too_slow(flow: str, step: str, waiting: int) -> str:
    return (
        f"a stream of flow {flow} has ended: {waiting} items of step {step} wait for its consumer, which reads too "
        "slowly; a handler that emits items for several tasks cannot pause one of them"
    )
