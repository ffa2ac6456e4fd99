"""The tasks that an API process has sent to a pipeline process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Collection, Sequence

from ...exceptions import NotRunningError, TaskTimeout
from ...reports import Subscriber
from ...task import checked_priority
from ..marks import make_markers
from ..options import EngineOptions
from ..recorder import add_note
from ..route import FINISHED, first_of, make_route
from ..scheduling.deadlines import Deadlines
from ..scheduling.idle import Idle
from ..scheduling.publishing import publish
from ..scheduling.ticket import Ticket
from ..tenants import TenantReader
from ..wire.codec import Codec, Encoded
from ..wire.failures import decode_error, unreadable
from ..wire.frames import Envelope, Kind, ProtocolError, pack, pack_batches, pack_offsets, unpack_batches
from .client_failures import ClientFailures
from .client_memory import ClientMemory
from .client_spans import ClientSpans
from .client_streams import ClientStreams
from .step_records import unpack_records

GRACE = 0.05
"""Seconds after its deadline at which a task ends without an answer: the pipeline process can say where it was."""


class Submissions:
    """Sends tasks to a pipeline process, and settles each once: with its answer, or without one.

    Args:
        options: What the flow declares.
        memory: The shared memory.
        steps: Names of the steps.
        pid: Process id of the pipeline process.
        send: Sends packed frames to it.

    Attributes:
        name: Name of the flow.
        loop: The event loop that this works in; None while it works in none.
        route: The route of tasks: the first step of each is chosen here.
        codec: Encodes and decodes tasks.
        outcomes: How many tasks ended how.
        streams: Delivers the items of streams.
        spans: The spans of the tasks that are traced.
        failures: Hands tasks that have failed to the recorder.
    """

    def __init__(
        self,
        options: EngineOptions,
        memory: ClientMemory,
        steps: Sequence[str],
        pid: int,
        send: Callable[[bytes], None],
    ) -> None:
        self.name = options.name
        self.loop: asyncio.AbstractEventLoop | None = None
        tenants = None if options.fair is None else TenantReader(options.name, options.fair)
        conditions = [step.handle_condition for _, step in options.steps]
        self.route = make_route(conditions, make_markers(options.steps), options.shape, tenants)
        self.codec = Codec(memory.arena)
        self.spans = ClientSpans(options.begin_spans, steps)
        self.failures = ClientFailures(self.name, options.recording, memory, self.codec)
        self.outcomes = dict.fromkeys(("completed", "failed", "timed_out", "cancelled"), 0)
        self._memory = memory
        self._steps = steps
        self._pid = pid
        self._send = send
        self._levels = options.priorities
        self._subscribers: Collection[Subscriber] = options.subscribers
        self._tickets: dict[int, Ticket] = {}
        self._ids = itertools.count(1)
        self._deadlines = Deadlines(self._time_out)
        self._idle = Idle(self._tickets, memory.arena.trim, options.timing.idle_time)
        self._outbox: list[tuple[list[Envelope], float, int, int]] = []
        self._turn: asyncio.Handle | None = None
        self.streams = ClientStreams(
            self.name, memory, self._tickets, self._deadlines, self._settle, self.spans, self._send_now
        )

    @property
    def in_flight(self) -> int:
        """Number of tasks that are not settled."""
        return len(self._tickets)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop, also on tasks that other threads have handed to an earlier one."""
        self.loop = loop
        self.streams.attach(loop)
        for ticket in self._tickets.values():
            self._deadlines.add(ticket, loop)
        if self._outbox:
            self.schedule()

    def detach(self, error: Callable[[], Exception], handed: bool = True) -> None:
        """Stop working in an event loop, and end tasks as `abandon` does."""
        self.loop = None
        self.streams.detach()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self.abandon(error, handed)
        self._deadlines.clear()
        self._memory.waiters.detach()

    def abandon(self, error: Callable[[], Exception], handed: bool = True) -> None:
        """End every task with an error.

        Args:
            error: Makes it; each task gets its own.
            handed: Whether also tasks whose callers are in other threads, and outlive the event loop.
        """
        for ticket in list(self._tickets.values()):
            receiver = ticket.receiver
            if not handed and ticket.is_handed and receiver is not None and not receiver.done():
                continue
            with contextlib.suppress(RuntimeError):  # the event loop of its caller is closed
                self.withdraw_with(ticket, error())
        self._idle.cancel()

    def submit(self, ticket: Ticket, step: int) -> int:
        """Become the owner of a task, and send it; see `Dispatcher.submit`."""
        task, deadline = ticket.task, ticket.deadline
        assert self.loop is not None and task is not None
        if task.priority != 0:
            ticket.priority = min(max(checked_priority(task.priority), 0), self._levels - 1)
        number = ticket.id = next(self._ids)
        ticket.step = first_of(step)
        ticket.deadline = deadline + GRACE
        if self.spans.begin is not None:
            ticket.content = self.spans.begin_task(number, ticket.content)
        content = ticket.content
        if content.blocks:
            self._memory.send(content.blocks)
        self._tickets[number] = ticket
        self._deadlines.add(ticket, self.loop)
        envelope = Envelope(number, deadline, step, ticket.status, content, ticket.marks.pack())
        self._outbox.append(([envelope], time.monotonic() - ticket.started_at, ticket.priority, 0))
        if len(self._tickets) == 1:
            self.flush()
        else:
            self.schedule()
        return number

    def withdraw(self, number: int) -> None:
        """End a task whose caller does not wait any more."""
        ticket = self._tickets.get(number)
        if ticket is not None:
            self.withdraw_with(ticket, None)

    def withdraw_with(self, ticket: Ticket, error: Exception | None) -> None:
        """End a task without its answer."""
        self._settle(ticket, "cancelled", error)

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no task is left; tell whether that was within ``timeout`` seconds."""
        return await self._idle.wait(timeout)

    def receive_answers(self, payload: bytes) -> None:
        """Settle the tasks of a frame.

        Raises:
            ProtocolError: The frame makes no sense.
        """
        now = time.monotonic()
        for batch in unpack_batches(payload):
            for task, _, step, status, content, _ in batch.envelopes:
                if step != FINISHED:
                    raise ProtocolError(f"the answer to task {task} leads to step {step}")
                self._memory.accept(content.blocks)
                ticket = self._tickets.get(task)
                try:
                    if ticket is None:  # it has ended while the answer was on its way
                        continue
                    ticket.metrics = unpack_records(content.kind, self._steps)
                    if self.spans.open:
                        self.spans.note_records(ticket)
                    if status:
                        where = f"flow {self.name} (pipeline process {self._pid})"
                        error = decode_error(content.body, where)
                        add_note(error, self.failures.recorded.pop(task))
                        self._settle(ticket, _outcome_of(error), error, is_answered=True)
                    else:
                        self._finish(ticket, content, now)
                finally:
                    self._memory.drop(content.blocks)

    def schedule(self) -> None:
        """Send at the end of this turn of the event loop what there is to be sent."""
        if self._turn is None and self.loop is not None:
            self._turn = self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what there is to be sent."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._memory.arena.mapping.dropped:
            self._memory.arena.collect()
        frames = b""
        if returned := self._memory.pop_returned():
            frames = pack(Kind.RELEASED, pack_offsets(returned))
        if self._outbox:
            frames += pack(Kind.TASKS, pack_batches(self._outbox))
            self._outbox = []
        if frames:
            self._send(frames)

    def _send_now(self, frame: bytes) -> None:
        self.flush()  # in the order in which things have happened
        self._send(frame)

    def _finish(self, ticket: Ticket, content: Encoded, now: float) -> None:
        ticket.content = content
        try:
            ticket.fill_in(self.codec, now - ticket.started_at)
        except Exception as exc:
            # No local name for the error: its cause refers to this frame, and as a cycle they would keep the blocks.
            self._settle(ticket, "failed", unreadable(self.name, exc), is_answered=True)
            return
        self._settle(ticket, "completed", None, is_answered=True)

    def _settle(self, ticket: Ticket, outcome: str, error: Exception | None, is_answered: bool = False) -> None:
        """End a task: the one place where its receiver gets its end."""
        if ticket.is_settled:
            return
        if self.spans.open:
            self.spans.end(ticket, outcome, error)
        ticket.is_settled = True
        if self._subscribers:
            publish(ticket, outcome, self._subscribers, self.name)
        ticket.task = None
        self.outcomes[outcome] += 1
        del self._tickets[ticket.id]
        self._deadlines.remove(ticket)
        if not is_answered and self.loop is not None:
            self._send_now(pack(Kind.CANCEL, pack_offsets([ticket.id])))
        receiver, ticket.receiver = ticket.receiver, None
        if receiver is not None and not receiver.done():
            if error is None:
                receiver.set_result(None)
            else:
                receiver.set_exception(error)
        if not self._tickets:
            self._idle.begin(self.loop)

    def _time_out(self, ticket: Ticket) -> None:
        if ticket.is_settled:
            return
        now = time.monotonic()
        if not ticket.is_late(now):
            assert self.loop is not None
            self._deadlines.add(ticket, self.loop)
            return
        message = f"timeout of a task after {now - ticket.started_at:.3f} s in flow {self.name}: "
        item_age = ticket.item_age(now)
        if item_age is None:
            message += f"the pipeline process (pid {self._pid}) has not answered"
        else:
            message += f"no item has come for {item_age:.3f} s"
        self._settle(ticket, "timed_out", TaskTimeout(message))


def _outcome_of(error: Exception) -> str:
    """Return how a task has ended whose error was sent by the pipeline process."""
    if isinstance(error, TaskTimeout):
        return "timed_out"
    return "cancelled" if isinstance(error, NotRunningError) else "failed"
