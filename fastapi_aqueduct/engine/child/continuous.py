"""Runs handlers with continuous batching: tasks join a call that is under way, and leave it when they are finished."""

from __future__ import annotations

import sys
import time
from collections import deque
from contextvars import Context

from ...handler import BaseTaskHandler
from ..wire.failures import encode_error
from ..wire.frames import Envelope
from .hand import log_unheard
from .return_check import ReturnCheck
from .rounds import BatchHand
from .worker import Worker


class ContinuousRunner:
    """Runs one call of ``handle`` for as long as there are tasks; those that arrive join it in ``self.rounds``.

    Args:
        worker: The source of batches and the destination of items and answers.
        handler: The handler of the step.
        check: Checks what ``handle`` returns.

    Attributes:
        hand: The tasks of the call.
    """

    def __init__(self, worker: Worker, handler: BaseTaskHandler, check: ReturnCheck) -> None:
        self.hand = BatchHand(worker, is_continuous=True)
        self._worker = worker
        self._handler = handler
        self._check = check
        self._context: Context | None = None  # as in `PlainRunner`
        self._suspects: deque[tuple[Envelope, int]] = deque()  # tasks of a call that raised, and their batches

    def run(self) -> None:
        """Work until the API process sends STOP and all tasks are answered.

        Raises:
            EOFError: The API process has ended.
        """
        worker, hand = self._worker, self.hand
        if worker.context is not None:
            self._context = worker.context.base()
        while worker.pending or self._suspects or not worker.is_stopping:
            hand.is_open = not self._suspects
            if hand.is_open:
                hand.begin_pending()
                worker.note_call(0, time.monotonic())
            else:
                hand.add(*self._suspects.popleft())
            if hand.entries:
                self._run_call()
            worker.flush()
            if not worker.pending and not self._suspects and not worker.is_stopping:
                worker.forget_ended()
                hand.wait(0)

    def _run_call(self) -> None:
        hand = self.hand
        failure = b""
        try:
            self._handle() if self._context is None else self._context.copy().run(self._handle_in_context)
        except BaseException as exc:  # also SystemExit: a request must not end its worker
            failure = encode_error(exc)
            if all(entry.is_finished for entry in hand.entries.values()):
                log_unheard(self._handler, exc)
        if self._worker.channel.is_closed:
            sys.exit()  # a child that the handler has forked, which would be a second worker
        if failure and len(hand.entries) > 1:
            # One bad input must not fail the others of its call: each runs again, alone, from an untouched copy.
            for entry in hand.drop_untouched():
                self._suspects.append((entry.envelope, entry.number))
        hand.end_all(failure)

    def _handle(self) -> None:
        value = self._handler.handle(*[entry.task for entry in self.hand.entries.values()])
        if value is not None:
            self._check.note(value)

    def _handle_in_context(self) -> None:
        self.hand.set_context()
        self._handle()
