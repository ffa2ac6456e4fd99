"""The tasks that a handler has in hand, and what they ask their worker."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...exceptions import UsageError
from ...handler import BaseTaskHandler
from ...logger import log
from ...reports import Progress
from ...task import BaseTask
from ..wire.frames import Batch, Envelope, Status
from .current import InHand, source
from .task_context import reset
from .worker import Worker, expired, pop_failure

PROGRESS_INTERVAL = 0.1
"""Seconds between two reports of a task's progress; further ones are dropped, so that a loop may report each step."""


class Entry:
    """A task in hand that has asked for something, or is one of several that are under way.

    Args:
        envelope: The task as it came.
        task: The task.
        number: The number of its batch.
        begun_at: When its call began, on the clock of ``time.monotonic``.

    Attributes:
        is_finished: Whether the handler has finished it.
        has_emitted: Whether an item of it was sent.
        has_failed: Whether an error of its own has been set, so that its call should end.
        is_answered: Whether its answer is on its way.
        duration: Seconds that the handler worked on it; None: since its call began.
        reported_at: When its progress was last sent, on the clock of ``time.monotonic``.
    """

    __slots__ = (
        *("begun_at", "duration", "envelope", "has_emitted", "has_failed", "is_answered", "is_finished"),
        *("number", "reported_at", "task"),
    )

    def __init__(self, envelope: Envelope, task: BaseTask, number: int, begun_at: float) -> None:
        self.envelope = envelope
        self.task = task
        self.number = number
        self.begun_at = begun_at
        self.is_finished = False
        self.has_emitted = False
        self.has_failed = False
        self.is_answered = False
        self.duration: float | None = None
        self.reported_at = -math.inf

    def in_hand(self) -> list[InHand]:
        """Return the task; nothing once its call has ended."""
        task = getattr(self, "task", None)
        return [] if task is None else [InHand(self.envelope, task)]

    def fail(self, error: Exception) -> None:
        """Fail the task, whatever its handler does further."""
        BaseTask.fail(self.task, error)  # a field may hide the method
        self.has_failed = True


def log_unheard(handler: BaseTaskHandler, error: BaseException) -> None:
    """Log an exception of a call that no caller gets: its tasks are finished, or their callers have left."""
    name, pid, kind = type(handler).__qualname__, os.getpid(), type(error).__name__
    log.warning("%s.handle (pid %d) raised %s: %s after the end of its task", name, pid, kind, error)


class Hand:
    """Does what tasks ask for while the handler works on them; what they send leaves at the end of a turn.

    Args:
        worker: Exchanges frames with the API process.

    Attributes:
        entries: The tasks under way, by the ``id()`` of the object. A plain call has none until a task asks.
    """

    def __init__(self, worker: Worker) -> None:
        self.entries: dict[int, Entry] = {}
        self._worker = worker
        self._thread = threading.get_ident()
        self._has_warned = False

    def is_between_calls(self) -> bool:
        """Tell whether no call runs: a worker with several waits for frames when none of them has its turn."""
        return True

    def in_hand(self) -> list[InHand]:
        """Return no tasks: these are the current ones of code that runs outside the context of a call."""
        return []

    def begin_pending(self) -> list[Entry]:
        """Begin all tasks that have arrived; the API process sends no more than there are places."""
        worker = self._worker
        begun: list[Entry] = []
        while worker.pending:
            batch = worker.pending.popleft()
            for envelope in batch.envelopes:
                entry = self.add(envelope, batch.number)
                if entry is not None:
                    begun.append(entry)
        return begun

    def add(self, envelope: Envelope, number: int) -> Entry | None:
        """Begin a task; one that is not worked on is answered."""
        now = time.monotonic()
        self._worker.note_call(envelope.id, now)
        task = self._worker.decode(envelope, now)
        if not isinstance(task, BaseTask):
            self._worker.answers.append(Batch([task], 0.0, 0, number))
            self._worker.close_batch([envelope], [])  # it may have been decoded for the condition of this step
            return None
        entry = self.entries[id(task)] = Entry(envelope, task, number, now)
        return entry

    @contextmanager
    def surround(self, task: BaseTask) -> Iterator[None]:
        """Work for one task of a call; see `fastapi_aqueduct.task_context`."""
        entry = self.peek(task)
        if entry is None:
            yield
            return
        envelope, tasks = entry.envelope, source.get()
        del entry, task  # a context that is copied here may outlive the call
        token = source.set(lambda: [item for item in tasks() if item.envelope is envelope])
        values = self._worker.context.enter([envelope]) if self._worker.context is not None else []
        try:
            yield
        finally:
            reset(values)
            source.reset(token)

    def emit(self, task: BaseTask, item: Any) -> None:
        """Send an item of a task, if its caller wants items."""
        entry = self._open_entry("task.emit", task)
        if entry is not None:
            self.emit_of(entry, item)
            self.send_items(entry)

    def emit_of(self, entry: Entry, item: Any) -> None:
        """Encode an item of an entry, if its caller wants items. An item that cannot be sent fails the task."""
        envelope = entry.envelope
        if envelope.status != Status.STREAM or entry.has_failed or envelope.id in self._worker.cancelled:
            return
        try:
            self._worker.add_item(envelope, item)
            entry.has_emitted = True
        except Exception as exc:
            entry.fail(exc)

    def emit_yielded(self, entry: Entry, item: Any) -> None:
        """Encode what the generator of an entry has yielded."""
        if entry.is_finished:
            entry.fail(UsageError("a value was yielded after task.finish(): a finished task has no items"))
        else:
            self.emit_of(entry, item)

    def send_items(self, entry: Entry) -> None:
        """Send the items that a task has emitted, unless they leave at the end of the turn."""

    def progress(self, task: BaseTask, done: float, of: float) -> None:
        """Send a report of a task's progress at once, unless it comes too soon after the last one."""
        entry = self._open_entry("task.progress", task)
        if entry is None or entry.envelope.status != Status.STREAM:
            return
        now = time.monotonic()
        is_early = now - entry.reported_at < PROGRESS_INTERVAL or entry.envelope.id in self._worker.paused
        if is_early and done < of:
            return
        entry.reported_at = now
        self.emit_of(entry, Progress(done, of))
        self._worker.flush()
        self.look()

    def finish(self, task: BaseTask) -> None:
        """Answer a task before its call returns."""
        entry = self._open_entry("task.finish", task)
        if entry is not None:
            entry.is_finished = True
            self.send_answer(entry)

    def send_answer(self, entry: Entry) -> None:
        """Answer a finished task, unless that happens at the end of the turn."""

    def rounds(self, tasks: Sequence[BaseTask]) -> Iterator[list[BaseTask]]:
        """Refuse rounds.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "self.rounds() is for a plain `def handle(self, *tasks)`: a generator yields its items, and a coroutine "
            "awaits what it waits for"
        )

    def is_cancelled(self, task: BaseTask) -> bool:
        """Tell whether the caller of a task does not wait for it any more."""
        if self._worker.channel.is_closed:
            return False
        is_here = threading.get_ident() == self._thread
        entry = self._find(task) if is_here else self.peek(task)
        if entry is None:
            return False
        if is_here:
            self.look()  # only one thread may receive
        return entry.has_failed or entry.envelope.id in self._worker.cancelled

    def look(self) -> None:
        """Process the frames that have arrived."""
        self._worker.look()

    def answer(self, entry: Entry, failure: bytes = b"") -> list[Envelope]:
        """Add the answer to a task, if it has none yet; it leaves with the next flush.

        Args:
            entry: The task.
            failure: The packed exception of its call, which a task that is finished does not share.

        Returns:
            The answer.
        """
        if entry.is_answered:
            return []
        worker = self._worker
        envelope = entry.envelope
        if envelope.id in worker.cancelled:
            answer = expired(envelope)
        else:
            answer = worker.encode(envelope, entry.task, b"" if entry.is_finished else failure)
        duration = time.monotonic() - entry.begun_at if entry.duration is None else entry.duration
        worker.answers.append(Batch([answer], duration, 0, entry.number))
        entry.is_answered = True
        return [answer]

    def end(self, entry: Entry, failure: bytes = b"") -> None:
        """Answer a task, unless it is answered, and drop every reference to it."""
        worker, envelope = self._worker, entry.envelope
        answers = self.answer(entry, failure)
        self.drop(entry)
        worker.close_batch([envelope], answers)
        worker.windows.close(envelope.id)
        worker.cancelled.discard(envelope.id)

    def drop(self, entry: Entry) -> None:
        """Drop every reference to a task."""
        pop_failure(entry.task)
        del self.entries[id(entry.task)]
        del entry.task

    def wait(self, id: int) -> None:
        """Wait for frames, for as long as no turn of the handler runs: a paused stream does not hang.

        Args:
            id: Id of the task that runs next; 0 if any may.
        """
        self._worker.note_call(id, math.inf)
        self._worker.receive()
        self._worker.note_call(id, time.monotonic())

    def _open_entry(self, method: str, task: BaseTask) -> Entry | None:
        """Return the entry of a task that is neither finished nor answered."""
        self._check_thread(method)
        entry = self._find(task)
        if entry is None or entry.is_answered:
            self._warn(method)
        elif not entry.is_finished:
            return entry
        elif method != "task.finish":
            entry.fail(UsageError(f"{method}() was called after task.finish(): a finished task has no items"))
        return None

    def _find(self, task: Any) -> Entry | None:
        """Return the entry of a task."""
        return self.entries.get(id(task))

    def peek(self, task: Any) -> Entry | None:
        """Return the entry of a task in a thread that must not change anything."""
        return self.entries.get(id(task))

    def _check_thread(self, method: str) -> None:
        if threading.get_ident() != self._thread:
            raise UsageError(
                f"{method}() was called in another thread than that of `handle`: call it there; from a thread of a "
                f"coroutine with `loop.call_soon_threadsafe({method}, ...)`"
            )

    def _warn(self, method: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("%s() was called after the task was answered; it has no effect", method)
