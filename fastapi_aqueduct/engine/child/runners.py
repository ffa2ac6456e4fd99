"""Runners: what a worker runs, and when.

A runner receives batches from its `Worker`, calls the handler, and hands answers back. It must drop every reference to
a task before it calls `Worker.close_batch`: a reference that stays counts as user code that retains the task's blocks.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from contextvars import Context
from typing import Any

from ...handler import BaseTaskHandler
from ...task import BaseTask
from ..wire.ceiling_report import CeilingReport
from ..wire.codec import new_tuple
from ..wire.failures import encode_error
from ..wire.frames import FRAME_BUDGET, Batch, Envelope, Kind
from .batch_ceiling import BatchCeiling, is_out_of_memory
from .hand import log_unheard
from .return_check import ReturnCheck
from .rounds import BatchHand
from .worker import Worker, pop_failure

LOOK_AFTER = 0.001
"""Seconds of work after which a runner looks for cancellations before it begins the next batch. Cheap batches do not
pay for the look."""


class PlainRunner:
    """Runs one call of ``handle`` after the other.

    Args:
        worker: The source of batches and the destination of answers.
        handler: The handler of the step.
        check: Checks what ``handle`` returns.

    Attributes:
        hand: The tasks of the present call.
    """

    def __init__(self, worker: Worker, handler: BaseTaskHandler, check: ReturnCheck) -> None:
        self._worker = worker
        self._handler = handler
        self._check = check
        self.hand = BatchHand(worker)
        self._has_gap = False
        self._ceiling = BatchCeiling()
        self._shortage = ""  # what the last call that has failed has said of memory
        self._context: Context | None = None  # a call runs in a copy of it; None: no variables travel with tasks

    def run(self) -> None:
        """Work until the API process sends STOP and all batches are answered.

        Raises:
            EOFError: The API process has ended.
        """
        worker = self._worker
        if worker.context is not None:
            self._context = worker.context.base()
        pending = worker.pending
        while pending or not worker.is_stopping:
            if pending:
                answer = self._run_batch(pending.popleft())
                if answer.envelopes:  # else its tasks were answered one by one
                    worker.answers.append(answer)
                if pending and answer.duration > LOOK_AFTER:
                    worker.look()
                    worker.check_if_due()
            if not pending or time.monotonic() - worker.flushed_at > FRAME_BUDGET:
                worker.flush()
            if not pending and not worker.is_stopping:
                if worker.cancelled:
                    worker.forget_ended()
                worker.receive()

    def _run_batch(self, batch: Batch) -> Batch:
        started = time.monotonic()
        envelopes, _, size, number = batch
        self.hand.number = number
        answers: list[Any]
        if size == 1:
            answers = [self._run_alone(envelope) for envelope in envelopes]
        else:
            answers = self._run_calls(envelopes, size or len(envelopes))
        if self._has_gap:
            self._has_gap = False
            answers = [answer for answer in answers if answer is not None]
        self._worker.close_batch(envelopes, answers)
        return new_tuple(Batch, (answers, time.monotonic() - started, 0, number))

    def _run_calls(self, envelopes: list[Envelope], size: int) -> list[Any]:
        """Answer tasks in calls of at most ``size``, and of no more than have fitted into memory."""
        answers: list[Any] = []
        start = 0
        while start < len(envelopes):
            most = min(size, self._ceiling.most or size)
            answers += self._run_together(envelopes[start : start + most])
            start += most
        return answers

    def _run_together(self, envelopes: list[Envelope]) -> list[Envelope | None]:
        """Answer the tasks of one call of the handler; None for those that were answered during the call."""
        worker, hand = self._worker, self.hand
        now = time.monotonic()
        worker.note_call(envelopes[0].id, now)
        decoded = [worker.decode(envelope, now) for envelope in envelopes]
        tasks = [task for task in decoded if isinstance(task, BaseTask)]
        hand.envelopes = envelopes
        hand.begun_at = now
        hand.tasks = decoded
        failure = self._handle(tasks) if tasks else b""
        hand.tasks = ()
        is_untouched = not hand.entries or not hand.has_spoken()
        is_short = bool(failure and self._shortage and len(tasks) > 1)
        if is_short:
            self._note_shortage(len(tasks))
        elif self._ceiling.most and not failure:
            self._note_success(len(tasks))
        if failure and len(tasks) > 1 and is_untouched and worker.may_run_again(envelopes):
            # One bad input must not fail the others of its batch: each runs again, alone, from an untouched copy. A
            # batch that is too large for the memory runs again in halves.
            for task in tasks:
                pop_failure(task)
            hand.close()
            del tasks, decoded
            if is_short:
                return self._run_calls(envelopes, len(envelopes))
            return [self._run_alone(envelope) for envelope in envelopes]
        answered = self._close_hand()
        return [
            (None if envelope.id in answered else worker.encode(envelope, task, failure))
            if isinstance(task, BaseTask)
            else task
            for envelope, task in zip(envelopes, decoded, strict=True)
        ]

    def _run_alone(self, envelope: Envelope) -> Envelope | None:
        worker, hand = self._worker, self.hand
        now = time.monotonic()
        worker.note_call(envelope.id, now)
        task = worker.decode(envelope, now)
        if not isinstance(task, BaseTask):
            return task
        hand.envelopes = (envelope,)
        hand.begun_at = now
        tasks = hand.tasks = (task,)
        failure = self._handle(tasks)
        hand.tasks = ()
        if hand.entries and self._close_hand():
            return None
        return worker.encode(envelope, task, failure)

    def _note_shortage(self, size: int) -> None:
        self._ceiling.note_shortage(size)
        self._report(CeilingReport(self._ceiling.most, size, self._shortage))

    def _note_success(self, size: int) -> None:
        before = self._ceiling.most
        self._ceiling.note_success(size)
        if self._ceiling.most != before:
            self._report(CeilingReport(self._ceiling.most))

    def _report(self, report: CeilingReport) -> None:
        self._worker.channel.send(Kind.CEILING, report.pack())

    def _close_hand(self) -> set[int]:
        """Return the ids of the tasks that were answered during the call."""
        answered = self.hand.close()
        self._has_gap = self._has_gap or bool(answered)
        return answered

    def _handle(self, tasks: Sequence[BaseTask]) -> bytes:
        """Call the handler; return its exception, packed, or nothing."""
        try:
            if self._context is None:
                value = self._handler.handle(*tasks)
            else:
                value = self._context.copy().run(self._handle_in_context, tasks)
            if value is not None:
                self._check.note(value)
        except BaseException as exc:  # also SystemExit: a request must not end its worker
            if self._worker.channel.is_closed:
                raise
            if self.hand.are_finished(tasks):
                log_unheard(self._handler, exc)
            self._shortage = f"{type(exc).__name__}: {exc}" if is_out_of_memory(exc) else ""
            failure = encode_error(exc)
        else:
            if self._worker.channel.is_closed:
                sys.exit()  # a child that the handler has forked, which would be a second worker
            return b""
        if self._shortage:
            gc.collect()  # frames of the handler in a cycle would keep from the next call what they have allocated
        return failure

    def _handle_in_context(self, tasks: Sequence[BaseTask]) -> Any:
        self.hand.set_context()
        return self._handler.handle(*tasks)
