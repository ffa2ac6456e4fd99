"""Runs handlers with continuous batching: tasks join a call that is under way, and leave it when they are finished."""

from __future__ import annotations

import sys
import time

from ...handler import BaseTaskHandler
from ..wire.failures import encode_error
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

    def run(self) -> None:
        """Work until the API process sends STOP and all tasks are answered.

        Raises:
            EOFError: The API process has ended.
        """
        worker, hand = self._worker, self.hand
        while worker.pending or not worker.is_stopping:
            hand.begin_pending()
            if hand.entries:
                self._run_call()
            worker.flush()
            if not worker.pending and not worker.is_stopping:
                worker.forget_ended()
                hand.wait(0)

    def _run_call(self) -> None:
        hand = self.hand
        failure = b""
        self._worker.note_call(0, time.monotonic())
        try:
            self._handle()
        except BaseException as exc:  # also SystemExit: a request must not end its worker
            failure = encode_error(exc)
        if self._worker.channel.is_closed:
            sys.exit()  # a child that the handler has forked, which would be a second worker
        hand.end_all(failure)

    def _handle(self) -> None:
        value = self._handler.handle(*[entry.task for entry in self.hand.entries.values()])
        if value is not None:
            self._check.note(value)
