"""The calling side of a flow: admits tasks, encodes them, and waits for their end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

from ...exceptions import ArenaFull, NotRunningError, UsageError
from ...task import BaseTask
from ..marks import NO_MARKS, Marks
from ..memory.arena import Arena
from ..memory.memory_waiters import MemoryWaiters
from ..refusals import Refusals
from ..route import FINISHED, START, Route, first_of
from ..wait import Wait, awaited
from ..wire.codec import Codec, Encoded
from .caller_context import CallerContext
from .entry import Entry
from .outlet import Outlet, StreamTicket
from .stream import FlowStream
from .streams import Streams
from .ticket import Receiver, Ticket


class CallerSpans(Protocol):
    """The spans of tasks that do not get in."""

    def note_refusal(self, step: int, waiting_since: float, error: BaseException) -> None:
        """Note a task that has ended before it was submitted; see `Spans.note_refusal`."""


class Owner(Protocol):
    """The owner of tasks: the dispatcher, or what passes them on to one in another process.

    Attributes:
        name: Name of the flow.
        loop: The event loop that it works in; None while it works in none.
        route: The route of tasks through the steps.
        codec: Encodes tasks.
        streams: Delivers the items of streams.
        spans: The spans of the tasks that are traced.
    """

    name: str
    loop: asyncio.AbstractEventLoop | None
    route: Route
    codec: Codec

    @property
    def streams(self) -> Streams:
        """As above."""

    @property
    def spans(self) -> CallerSpans:
        """As above."""

    def submit(self, ticket: Ticket, step: int) -> int:
        """Become the owner of a task; see `Dispatcher.submit`."""

    def withdraw(self, number: int) -> None:
        """End a task whose caller does not wait any more."""


class CallerMemory(Protocol):
    """The shared memory that callers fill.

    Attributes:
        arena: The memory as this process uses it.
        waiters: The callers that wait for memory.
        refusals: Counts what the flow refuses.
    """

    arena: Arena
    waiters: MemoryWaiters
    refusals: Refusals


class Caller:
    """Encodes the tasks of callers, and submits them to their owner.

    Args:
        owner: The owner of the tasks.
        memory: The shared memory of the flow.
        entry: Refuses tasks, or has them wait.
        context: The context variables that travel with tasks.
    """

    def __init__(
        self, owner: Owner, memory: CallerMemory, entry: Entry, context: Sequence[ContextVar[Any]] = ()
    ) -> None:
        self._owner = owner
        self._route = owner.route
        self._has_marks = owner.route.has_marks
        self._entry = entry
        self._memory = memory
        self._arena = memory.arena
        self._codec = owner.codec
        self._context = CallerContext(context) if context else None

    def check_entry(self, priority: int, timeout: float, task: BaseTask | None) -> None:
        """Refuse a task that would have to wait for a place, or would miss its deadline.

        Args:
            priority: Its priority.
            timeout: Seconds in which its answer must come.
            task: What is known of it; None: nothing.

        Raises:
            Exception: As for `Entry.check`, and as for `TenantReader.guess`.
        """
        tenants = self._route.tenants
        self._entry.check(priority, timeout, None if tenants is None or task is None else tenants.guess(task))

    async def process(self, task: BaseTask, timeout: float) -> None:
        """Take a task through the flow and fill it in.

        A cancellation removes the task from the queue; a worker that has it gets CANCEL, and its answer is dropped.

        Args:
            task: The task.
            timeout: Seconds in which the answer must come.

        Raises:
            TaskTimeout: The answer did not come in time.
            StepUnavailable: A step has no ready worker, and will not have one before the deadline.
            NotRunningError: The flow was stopped meanwhile.
            WorkerDied: More workers died with it in hand than `max_retries` of the step allows.
            Exception: Raised by the handler.
        """
        started_at = time.monotonic()
        extras = b"" if self._context is None else self._context.pack()
        step = self._route.next(START, task)
        if step == FINISHED:
            return
        marks = self._route.marks_at(step, task) if self._has_marks else NO_MARKS
        content = self._encode_now(task, step, timeout, marks, marks.coalesce_key)
        if content is None:
            content = await awaited(self._encode_later(task, step, started_at + timeout, marks))
        if extras:
            content = content._replace(extras=extras)
        future = asyncio.get_running_loop().create_future()
        # No name for the ticket: this frame may be kept with an exception.
        deadline = started_at + timeout
        number = self._owner.submit(Ticket(0, task, future, content, 0, deadline, started_at, marks), step)
        try:
            await future
        except asyncio.CancelledError:
            self._owner.withdraw(number)
            raise
        finally:
            del future  # its exception refers to this frame; as a cycle both would keep the memory of the task

    def hand_in(self, task: BaseTask, timeout: float, receiver: Receiver, started_at: float) -> Wait[int]:
        """Take a task into the flow whose caller is in another thread; it enters at once if it can.

        Args:
            task: The task.
            timeout: Seconds from ``started_at`` in which the answer must come.
            receiver: Receives its end.
            started_at: When the call began, on the clock of ``time.monotonic``.

        Returns:
            Its number, for `withdraw`; 0 when it has no step to visit.

        Raises:
            TaskTimeout: There was no place in the queue in time.
            StepUnavailable: A step has no ready worker, and will not have one before the deadline.
            NotRunningError: The flow was stopped meanwhile.
        """
        extras = b"" if self._context is None else self._context.pack()
        step = self._route.next(START, task)
        if step == FINISHED:
            return 0
        marks = self._route.marks_at(step, task) if self._has_marks else NO_MARKS
        content = self._encode_now(task, step, timeout, marks, marks.coalesce_key)
        if content is None:
            content = yield from self._encode_later(task, step, started_at + timeout, marks)
        if extras:
            content = content._replace(extras=extras)
        ticket = Ticket(0, task, receiver, content, 0, started_at + timeout, started_at, marks, is_handed=True)
        return self._owner.submit(ticket, step)

    def stream(
        self, task: BaseTask, timeout: float, item_timeout: float, guard: Callable[[], AbstractContextManager[object]]
    ) -> FlowStream[Any]:
        """Return the items of a task, which begins with the iteration.

        Args:
            task: The task.
            timeout: Seconds in which the first item must come.
            item_timeout: Seconds in which each further item, and the end, must come.
            guard: Makes a context for the wait for the first item.
        """
        extras = b"" if self._context is None else self._context.pack()  # here: the iteration may have another context
        submit = partial(self._submit_stream, task, timeout, extras)
        return FlowStream(Outlet(item_timeout), submit, self._owner.streams, guard)

    async def _submit_stream(self, task: BaseTask, timeout: float, extras: bytes, outlet: Outlet) -> int:
        if self._owner.loop not in (None, asyncio.get_running_loop()):
            raise UsageError(f"this stream of flow {self._owner.name} is of another event loop: read it there")
        started_at = time.monotonic()
        streams = self._owner.streams
        streams.check()
        step = self._route.next(START, task)
        if step == FINISHED:
            outlet.set_result(None)
            return 0
        marks = self._route.marks_at(step, task) if self._has_marks else NO_MARKS
        content = self._encode_now(task, step, timeout, marks, b"")
        if content is None:
            content = await awaited(self._encode_later(task, step, started_at + timeout, marks))
        if extras:
            content = content._replace(extras=extras)
        number = self._owner.submit(
            StreamTicket(0, task, outlet, content, 0, started_at + timeout, started_at, marks), step
        )
        if streams.has_ended:  # while it waited for a place; from here on its memory has an owner
            streams.end_all()
        return number

    def withdraw(self, number: int) -> None:
        """End a task whose caller does not wait any more."""
        self._owner.withdraw(number)

    def _encode_now(self, task: BaseTask, step: int, timeout: float, marks: Marks, key: bytes) -> Encoded | None:
        """Encode a task, unless there is no place in the queue or no memory for it now."""
        has_place = self._entry.has_place(step, task.priority, timeout, task, marks)
        if not has_place and not self._entry.follows(step, key):
            return None
        if self._owner.loop is None:
            raise self._memory.refusals.count(NotRunningError(f"flow {self._owner.name} was stopped"))
        if self._arena.mapping.dropped:
            self._arena.collect()  # the memory of results that callers have dropped is warm
        try:
            return self._codec.encode(task)
        except ArenaFull:
            return None

    def _encode_later(self, task: BaseTask, step: int, deadline: float, marks: Marks) -> Wait[Encoded]:
        """Wait for a place in the queue and for memory, and encode a task."""
        started_at = time.monotonic()
        try:
            return (yield from self._encode_in_time(task, step, deadline, marks))
        except BaseException as exc:
            self._owner.spans.note_refusal(first_of(step), started_at, exc)
            raise

    def _encode_in_time(self, task: BaseTask, step: int, deadline: float, marks: Marks) -> Wait[Encoded]:
        yield from self._entry.wait(step, task.priority, deadline, marks)
        while True:
            try:
                return self._codec.encode(task)
            except ArenaFull as exc:
                full = exc
            try:
                yield from self._memory.waiters.wait(full, deadline)
            finally:
                del full  # it refers to this frame; as a cycle both would keep the memory of the task
            if self._owner.loop is not asyncio.get_running_loop():
                raise self._memory.refusals.count(
                    NotRunningError(
                        f"flow {self._owner.name} or its event loop was stopped while the task waited for memory"
                    )
                )
