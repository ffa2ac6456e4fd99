"""Runs handlers whose ``handle`` is a generator: several calls are under way, and take turns in one thread."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextvars import Context, copy_context
from typing import Any

from ...handler import BaseTaskHandler
from ..wire.failures import encode_error
from ..wire.frames import FRAME_BUDGET
from .current import source
from .hand import Entry, Hand, log_unheard
from .pace import Pace
from .worker import Worker


class _Call:
    """A call of the handler that is under way.

    Args:
        entry: Its task.
        context: The context variables of its turns: what the generator sets is set in its next turn, and in no other.

    Attributes:
        generator: The generator; None before the first turn, and after the last.
        pace: How long its turns take.
        context: As given.
    """

    __slots__ = ("context", "entry", "generator", "pace")

    def __init__(self, entry: Entry, context: Context) -> None:
        self.entry = entry
        self.generator: Any = None
        self.pace = Pace()
        self.context = context
        context.run(source.set, entry.in_hand)


class GeneratorRunner:
    """Runs the calls of a generator handler, each from one ``yield`` to the next. What it yields is an item.

    Args:
        worker: The source of batches and the destination of items and answers.
        handler: The handler of the step.

    Attributes:
        hand: The tasks of the calls.
    """

    def __init__(self, worker: Worker, handler: BaseTaskHandler) -> None:
        self.hand = Hand(worker)
        self._worker = worker
        self._handler = handler
        self._calls: dict[int, _Call] = {}
        self._context: Context  # each call has a copy

    def run(self) -> None:
        """Work until the API process sends STOP and all calls have ended.

        Raises:
            EOFError: The API process has ended.
        """
        worker = self._worker
        self._context = copy_context() if worker.context is None else worker.context.base()
        while worker.pending or self._calls or not worker.is_stopping:
            self._begin_calls()
            self._end_cancelled()
            if not self._run_turns() and not worker.pending and not worker.cancelled:
                worker.flush()
                if self._calls or not worker.is_stopping:
                    self.hand.wait(0)
        worker.flush()

    def _begin_calls(self) -> None:
        for entry in self.hand.begin_pending():
            self._calls[entry.envelope.id] = _Call(entry, self._context.copy())

    def _run_turns(self) -> bool:
        """Give each call that is not paused a turn.

        Returns:
            Whether there was any.
        """
        worker = self._worker
        has_run = False
        for id, call in list(self._calls.items()):
            if id in worker.paused or id in worker.cancelled:
                continue
            started = time.monotonic()
            worker.note_call(id, started)
            self._run_turn(id, call, started)
            has_run = True
            now = time.monotonic()
            call.pace.note(now - started)
            if call.pace.is_slow or now - worker.flushed_at > FRAME_BUDGET:
                worker.flush()
                worker.look()
                worker.check_if_due()
        return has_run

    def _run_turn(self, id: int, call: _Call, started: float) -> None:
        entry, failure, has_ended, item = call.entry, b"", True, None
        try:
            if call.generator is None:
                if self._worker.context is not None:
                    call.context.run(self._worker.context.enter, [entry.envelope])
                call.generator = self._handler.handle(entry.task)
            item = call.context.run(next, call.generator)
            has_ended = False
        except StopIteration:
            pass
        except BaseException as exc:  # also SystemExit: a request must not end its worker
            failure = encode_error(exc)
            if entry.is_finished:
                log_unheard(self._handler, exc)
        if self._worker.channel.is_closed:
            sys.exit()  # a child that the handler has forked, which would be a second worker
        entry.duration = (entry.duration or 0.0) + time.monotonic() - started
        if item is not None:
            self.hand.emit_yielded(entry, item)
            item = None  # it may be a view of one of the task's blocks
        if has_ended:
            self._end(id, call, failure)
        elif entry.is_finished or entry.has_failed:
            self._close(id, call)

    def _end_cancelled(self) -> None:
        worker = self._worker
        for id in list(worker.cancelled):  # the end of a generator may receive more
            if id in self._calls:
                self._close(id, self._calls[id])
            worker.cancelled.discard(id)

    def _close(self, id: int, call: _Call) -> None:
        """Close a generator before its end, and answer its task."""
        self._worker.note_call(id, time.monotonic())
        generator: Iterator[Any] | None = call.generator
        try:
            if generator is not None:
                call.context.run(generator.close)  # type: ignore[attr-defined]
        except BaseException as exc:
            log_unheard(self._handler, exc)
        del generator
        self._end(id, call)

    def _end(self, id: int, call: _Call, failure: bytes = b"") -> None:
        call.generator = None  # its frame refers to the task
        del self._calls[id]
        self.hand.end(call.entry, failure)
