"""The tasks that a handler has in hand, and what they ask their worker."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ...exceptions import UsageError
from ...logger import log
from ...runtime import runtime_of
from ...task import BaseTask
from ..wire.frames import Batch, Envelope, Status
from .worker import Worker, expired


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
    """

    __slots__ = ("begun_at", "envelope", "has_emitted", "has_failed", "is_answered", "is_finished", "number", "task")

    def __init__(self, envelope: Envelope, task: BaseTask, number: int, begun_at: float) -> None:
        self.envelope = envelope
        self.task = task
        self.number = number
        self.begun_at = begun_at
        self.is_finished = False
        self.has_emitted = False
        self.has_failed = False
        self.is_answered = False

    def fail(self, error: Exception) -> None:
        """Fail the task, whatever its handler does further."""
        self.task.fail(error)
        self.has_failed = True


class Hand:
    """Does what tasks ask for during a call of the handler: `emit`, `finish`, `is_cancelled`, `rounds`.

    Args:
        worker: Exchanges frames with the API process.
        is_continuous: Whether tasks join a call that is under way.

    Attributes:
        entries: The tasks under way, by the ``id()`` of the object. A plain call has none until a task asks.
        envelopes: The tasks of a plain call, as they came.
        tasks: The same tasks, decoded; empty between two calls, since a reference that stays would keep their blocks.
            They are searched only when one of them asks.
        number: The number of their batch.
        sends_at_once: Whether items and answers leave at once, and not at the end of a turn.
    """

    def __init__(self, worker: Worker, is_continuous: bool = False) -> None:
        self.entries: dict[int, Entry] = {}
        self.sends_at_once = True
        self.envelopes: Sequence[Envelope] = ()
        self.tasks: Sequence[Any] = ()
        self.number = 0
        self._worker = worker
        self._is_continuous = is_continuous
        self._thread = threading.get_ident()
        self._has_warned = False

    def has_spoken(self) -> bool:
        """Tell whether the API process has received an item or an answer of this call, which must not run again."""
        return any(entry.has_emitted or entry.is_answered for entry in self.entries.values())

    def close(self) -> set[int]:
        """End a plain call.

        Returns:
            The ids of the tasks that were answered during the call.
        """
        answered = {entry.envelope.id for entry in self.entries.values() if entry.is_answered}
        self.entries.clear()
        self.sends_at_once = True
        return answered

    def add(self, envelope: Envelope, number: int, now: float) -> Entry | None:
        """Begin a task; one that is cancelled, or cannot be decoded, is answered."""
        task = self._worker.decode(envelope, now)
        if not isinstance(task, BaseTask):
            self._worker.answers.append(Batch([task], 0.0, 0, number))
            return None
        entry = self.entries[id(task)] = Entry(envelope, task, number, now)
        return entry

    def emit(self, task: BaseTask, item: Any) -> None:
        """Send an item of a task, if its caller wants items."""
        self._check_thread("task.emit")
        entry = self._find(task)
        if entry is None:
            self._warn("emit")
        elif entry.is_finished:
            entry.fail(UsageError("task.emit() was called after task.finish(): a finished task has no further items"))
        else:
            self.emit_of(entry, item)
            if self.sends_at_once and self._worker.items:
                self._send(entry)

    def emit_of(self, entry: Entry, item: Any) -> None:
        """Encode an item of an entry, if its caller wants items. An item that cannot be sent fails the task."""
        envelope = entry.envelope
        if envelope.status != Status.STREAM or entry.has_failed or envelope.id in self._worker.cancelled:
            return
        try:
            self._worker.add_item(envelope.id, item)
            entry.has_emitted = True
        except Exception as exc:
            entry.fail(exc)

    def finish(self, task: BaseTask) -> None:
        """Answer a task before its call returns."""
        self._check_thread("task.finish")
        entry = self._find(task)
        if entry is None:
            self._warn("finish")
        elif not entry.is_finished:
            entry.is_finished = True
            if self.sends_at_once:
                self.answer(entry)
                self._worker.flush()

    def rounds(self, tasks: Sequence[BaseTask]) -> Iterator[list[BaseTask]]:
        """Iterate over the tasks that are not answered yet.

        Between two rounds what was emitted is sent, and tasks that are finished, failed or cancelled are answered. In a
        continuous call new tasks join.
        """
        self._check_thread("self.rounds")
        worker = self._worker
        live = [entry for task in tasks if (entry := self._find(task)) is not None]
        first = self.envelopes[0].id if self.tasks else 0
        self.sends_at_once = False
        while True:
            live = [entry for entry in live if not self._leave(entry)]
            if worker.items or worker.answers:
                worker.flush()
            worker.look()
            if self._is_continuous:
                live += self.begin_pending()
            if not live:
                break
            if any(entry.envelope.id in worker.cancelled for entry in live):
                continue  # also of paused tasks: one that was paused and cancelled in this look gets no further frame
            if all(entry.envelope.id in worker.paused for entry in live):
                self.wait(first)
            else:
                worker.note_call(first, time.monotonic())
                yield [entry.task for entry in live]
        self.sends_at_once = True

    def begin_pending(self) -> list[Entry]:
        """Begin all tasks that have arrived; the API process sends no more than there are places."""
        worker = self._worker
        begun: list[Entry] = []
        while worker.pending:
            batch = worker.pending.popleft()
            for envelope in batch.envelopes:
                now = time.monotonic()
                worker.note_call(envelope.id, now)
                entry = self.add(envelope, batch.number, now)
                if entry is not None:
                    begun.append(entry)
        return begun

    def _leave(self, entry: Entry) -> bool:
        """Answer a task after a round, if it is finished, failed or cancelled."""
        has_failed = entry.has_failed or "failure" in runtime_of(entry.task)
        if not (entry.is_finished or has_failed or entry.envelope.id in self._worker.cancelled):
            return False
        task = entry.task
        if self._is_continuous:
            self.answer(entry)
            del self.entries[id(task)]
            del entry.task
        else:
            self.answer(entry)  # the runner needs the entry at the end of the call
        # The handler has it in a list, and perhaps in its arguments, until the others end: it must keep no blocks.
        task.__dict__ = {"task_id": task.task_id}
        self._worker.close_batch([entry.envelope], self._worker.answers[-1].envelopes)
        self._worker.paused.discard(entry.envelope.id)
        self._worker.cancelled.discard(entry.envelope.id)
        return True

    def is_cancelled(self, task: BaseTask) -> bool:
        """Tell whether the caller of a task does not wait for it any more."""
        entry = self._find(task)
        if entry is None or self._worker.channel.is_closed:
            return False
        if threading.get_ident() == self._thread:
            self._worker.look()  # only one thread may receive
        return entry.has_failed or entry.envelope.id in self._worker.cancelled

    def answer(self, entry: Entry, failure: bytes = b"") -> None:
        """Add the answer to a task; it leaves with the next flush."""
        worker = self._worker
        envelope = entry.envelope
        if envelope.id in worker.cancelled:
            answer = expired(envelope)
        else:
            answer = worker.encode(envelope, entry.task, failure)
        worker.answers.append(Batch([answer], time.monotonic() - entry.begun_at, 0, entry.number))
        entry.is_answered = True

    def end(self, entry: Entry, failure: bytes = b"") -> None:
        """Answer a task and drop every reference to it."""
        self.answer(entry, failure)
        del self.entries[id(entry.task)]
        del entry.task
        self._worker.close_batch([entry.envelope], self._worker.answers[-1].envelopes)

    def wait(self, id: int) -> None:
        """Wait for frames, for as long as no turn of the handler runs: a paused stream does not hang.

        Args:
            id: Id of the task that runs next; 0 if any may.
        """
        self._worker.note_call(id, math.inf)
        self._worker.receive()
        self._worker.note_call(id, time.monotonic())

    def _send(self, entry: Entry) -> None:
        worker = self._worker
        worker.flush()
        worker.look()
        envelope = entry.envelope
        # One stream in a call of its own: its handler waits here until the consumer has caught up.
        while self._is_alone() and envelope.id in worker.paused and envelope.id not in worker.cancelled:
            self.wait(envelope.id)

    def _is_alone(self) -> bool:
        return len(self.tasks) == 1

    def _find(self, task: Any) -> Entry | None:
        entry = self.entries.get(id(task))
        if entry is None and self.tasks:
            for envelope, other in zip(self.envelopes, self.tasks, strict=True):
                if other is task:
                    entry = self.entries[id(task)] = Entry(envelope, task, self.number, time.monotonic())
        return entry

    def _check_thread(self, method: str) -> None:
        if threading.get_ident() != self._thread:
            raise UsageError(f"{method}() was called in another thread than that of `handle`: call it there")

    def _warn(self, method: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("task.%s() was called after the task was answered; it has no effect", method)
