"""The tasks of a plain call in hand: what they send leaves at once, and in rounds after each round."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextvars import Token
from typing import Any

from ...runtime import RUNTIME, runtime_of
from ...task import BaseTask
from ..wire.frames import FRAME_BUDGET, Envelope
from .current import InHand
from .hand import Entry, Hand
from .pace import Pace
from .task_context import reset
from .worker import Worker


class BatchHand(Hand):
    """Does what the tasks of a plain call ask for: as `Hand`, and ``rounds``.

    Args:
        worker: Exchanges frames with the API process.
        is_continuous: Whether tasks join a call that is under way.

    Attributes:
        envelopes: The tasks of the call, as they came.
        tasks: The same tasks, decoded; empty between two calls, since a reference that stays would keep their blocks.
            They are searched only when one of them asks. Set after `envelopes`.
        number: The number of their batch.
        begun_at: When the call began, on the clock of ``time.monotonic``.
        is_open: Whether tasks join the present call.
    """

    def __init__(self, worker: Worker, is_continuous: bool = False) -> None:
        super().__init__(worker)
        self.envelopes: Sequence[Envelope] = ()
        self.tasks: Sequence[Any] = ()
        self.number = 0
        self.begun_at = 0.0
        self.is_open = is_continuous
        self._is_continuous = is_continuous
        self._live: list[Entry] | None = None  # the tasks of the present round; None outside rounds
        self._tokens: list[Token[Any]] = []  # of the context variables that are set for a call
        self._surrounded: list[Envelope] = []  # the tasks for which they are set

    def is_between_calls(self) -> bool:
        """Tell whether no call runs, or one waits between two of its rounds."""
        return self._live is not None or not (self.tasks or self.entries)

    def in_hand(self) -> list[InHand]:
        """Return the tasks of the call; in rounds, those of the present round."""
        entries = self._live
        if entries is None and self._is_continuous:
            entries = list(self.entries.values())
        if entries is not None:
            return [item for entry in entries for item in entry.in_hand()]
        tasks, envelopes = self.tasks, self.envelopes
        if tasks is not self.tasks:  # in another thread, and the call has just ended
            return []
        pairs = zip(envelopes, tasks, strict=False)
        return [InHand(envelope, task) for envelope, task in pairs if isinstance(task, BaseTask)]

    def set_context(self) -> None:
        """Set the context variables of a call, in its new context."""
        self._tokens = []
        self._surrounded = []
        if not self._is_continuous and self._worker.context is not None:
            # Once: a span of the handler may be open across rounds.
            self._worker.context.attach([item.envelope for item in self.in_hand()])
        self._renew_context()

    def _renew_context(self) -> None:
        context = self._worker.context
        envelopes = [item.envelope for item in self.in_hand()] if context is not None else []
        if context is not None and envelopes != self._surrounded:
            reset(self._tokens)
            self._tokens = context.set(envelopes)
            self._surrounded = envelopes

    def are_finished(self, tasks: Sequence[BaseTask]) -> bool:
        """Tell whether all tasks of a call are finished."""
        entries = [self.entries.get(id(task)) for task in tasks]
        return all(entry is not None and entry.is_finished for entry in entries)

    def has_spoken(self) -> bool:
        """Tell whether an item or a task of this call is on its way or final, so that it must not run again."""
        return any(entry.has_emitted or entry.is_finished for entry in self.entries.values())

    def close(self) -> set[int]:
        """End a call, and answer the tasks that it has finished.

        Returns:
            The ids of the tasks that are answered.
        """
        answered: set[int] = set()
        for entry in self.entries.values():
            if entry.is_finished:
                self.answer(entry)
            self._worker.windows.close(entry.envelope.id)
            if entry.is_answered:
                answered.add(entry.envelope.id)
        self.entries.clear()
        self._live = None
        return answered

    def drop_untouched(self) -> list[Entry]:
        """Drop the tasks of a continuous call that may run again: the API process has received nothing of them.

        Returns:
            Their entries.
        """
        untouched = [
            entry
            for entry in self.entries.values()
            if not (entry.has_emitted or entry.is_finished or entry.has_failed)
            and self._worker.may_run_again([entry.envelope])
        ]
        for entry in untouched:
            self.drop(entry)
        return untouched

    def end_all(self, failure: bytes) -> None:
        """End a continuous call: answer all tasks in it."""
        for entry in list(self.entries.values()):
            self.end(entry, failure)
        self._live = None

    def send_items(self, entry: Entry) -> None:
        """Send the items of a task. A stream in a call of its own waits until its consumer has caught up."""
        worker = self._worker
        if self._live is not None or not worker.items:
            return
        worker.flush()
        worker.look()
        envelope = entry.envelope
        while self._is_alone() and envelope.id in worker.paused and envelope.id not in worker.cancelled:
            self.wait(envelope.id)

    def send_answer(self, entry: Entry) -> None:
        """Answer a finished task, in rounds after the round."""
        if self._live is None:
            self.answer(entry)
            self._worker.flush()

    def rounds(self, tasks: Sequence[BaseTask]) -> Iterator[list[BaseTask]]:
        """Iterate over the tasks that are not answered yet.

        Between two rounds what was emitted is sent, and tasks that are finished, failed or cancelled are answered. In a
        continuous call new tasks join. What cheap rounds emit within `FRAME_BUDGET` is sent together.
        """
        self._check_thread("self.rounds")
        worker = self._worker
        live = [entry for task in tasks if (entry := self._find(task)) is not None]
        first = self.envelopes[0].id if self.tasks else 0
        pace = Pace()
        while True:
            live = self._live = [entry for entry in live if not self._leave(entry)]
            is_paused = self._are_paused(live)
            if is_paused or worker.answers or pace.is_slow or time.monotonic() - worker.flushed_at > FRAME_BUDGET:
                # Both, or none: a task that joins may make the next round a slow one, for which no item may wait.
                if worker.items or worker.answers:
                    worker.flush()
                worker.look()
                worker.check_if_due()
                if self.is_open:
                    live += self.begin_pending()
                if not live:
                    break
                if worker.cancelled and any(entry.envelope.id in worker.cancelled for entry in live):
                    continue  # also of paused tasks: one paused and cancelled in this look gets no further frame
                is_paused = self._are_paused(live)
            if is_paused:
                self.wait(first)
                continue
            self._renew_context()
            started = time.monotonic()
            worker.note_call(first, started)
            yield [entry.task for entry in live]
            pace.note(time.monotonic() - started)
        self._live = None

    def _leave(self, entry: Entry) -> bool:
        """Answer a task after a round, if it is finished, failed or cancelled."""
        task = entry.task
        has_failed = entry.has_failed or (RUNTIME in task.__dict__ and "failure" in runtime_of(task))
        if not (entry.is_finished or has_failed or entry.envelope.id in self._worker.cancelled):
            return False
        answers = self.answer(entry)
        if self._is_continuous:
            self.drop(entry)
        # else the runner needs the entry at the end of the call.
        # The handler has it in a list, and perhaps in its arguments, until the others end: it must keep no blocks.
        task.__dict__ = {"task_id": task.task_id}
        self._worker.close_batch([entry.envelope], answers)
        self._worker.windows.close(entry.envelope.id)
        self._worker.cancelled.discard(entry.envelope.id)
        return True

    def _are_paused(self, live: list[Entry]) -> bool:
        """Tell whether the consumers of all tasks are behind."""
        paused = self._worker.paused
        return not live or (bool(paused) and all(entry.envelope.id in paused for entry in live))

    def _is_alone(self) -> bool:
        return len(self.tasks) == 1

    def _find(self, task: Any) -> Entry | None:
        entry = self.entries.get(id(task))
        if entry is None and (entry := self.peek(task)) is not None:
            self.entries[id(task)] = entry
        return entry

    def peek(self, task: Any) -> Entry | None:
        entry = self.entries.get(id(task))
        if entry is not None:
            return entry
        tasks, envelopes = self.tasks, self.envelopes
        if tasks is not self.tasks:  # the call has just ended, in the thread of `handle`
            return None
        for envelope, other in zip(envelopes, tasks, strict=False):
            if other is task:
                return Entry(envelope, task, self.number, self.begun_at)
        return None
