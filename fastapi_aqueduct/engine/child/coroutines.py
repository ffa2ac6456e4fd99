"""Runs handlers whose ``handle`` is ``async def``: calls run side by side in an event loop of the worker."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import deque
from contextlib import aclosing

from ...exceptions import HandlerTimeout
from ...handler import BaseTaskHandler
from ..wire.failures import encode_error
from ..wire.frames import FRAME_BUDGET, Envelope
from .current import InHand, source
from .event_loop import EventLoop, end_fork
from .hand import Entry, Hand, log_unheard
from .heartbeat import Heartbeat
from .return_check import ReturnCheck
from .worker import Worker


class _Call:
    """A call of the handler that is under way.

    Args:
        entries: Its tasks.

    Attributes:
        turn_at: When it began, or an asynchronous generator its present item, on the clock of ``time.monotonic``;
            infinity before, and while it is paused.
        running: The asyncio task.
        has_begun: Whether the asyncio task has begun; before, a cancellation of it would skip the end of the call.
        is_late: Whether it was cancelled because it took too long.
        is_left: Whether it was cancelled because no caller waits for it any more.
    """

    __slots__ = ("entries", "has_begun", "is_late", "is_left", "running", "turn_at")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.turn_at = math.inf
        self.running: asyncio.Task[None]
        self.has_begun = False
        self.is_late = False
        self.is_left = False

    def in_hand(self) -> list[InHand]:
        """Return its tasks; none once it has ended."""
        return [item for entry in self.entries for item in entry.in_hand()]

    def cancel_late(self) -> None:
        """Cancel it because it takes too long."""
        self.is_late = True
        self.turn_at = math.inf
        self.running.cancel()

    def leave(self) -> None:
        """Cancel it because no caller waits for it any more."""
        if not self.is_left:
            self.is_left = True
            if self.has_begun:
                self.turn_at = time.monotonic()  # for what it does in `finally`
                self.running.cancel()


class LoopHand(Hand):
    """Does what the tasks of coroutines ask for; what they send leaves when the event loop comes round.

    Args:
        worker: Exchanges frames with the API process.
        runner: The runner of the calls.
    """

    def __init__(self, worker: Worker, runner: CoroutineRunner) -> None:
        super().__init__(worker)
        self._runner = runner

    def send_items(self, entry: Entry) -> None:
        """Send the items that a task has emitted: at once if the coroutine does not let the event loop come round."""
        if time.monotonic() - self._worker.flushed_at > FRAME_BUDGET:
            self._worker.flush()
        else:
            self._runner.attend_soon()

    def send_answer(self, entry: Entry) -> None:
        """Answer a finished task when its coroutine next waits: until then an item after `finish` fails it."""
        self._runner.finished.append(entry)
        self._runner.attend_soon()

    def look(self) -> None:
        """Process the frames that have arrived; what they cause happens when the event loop comes round."""
        super().look()
        self._runner.attend_soon()


class CoroutineRunner:
    """Runs the calls of an ``async def handle``, each in an asyncio task. Each is answered when it ends.

    Args:
        worker: The source of batches and the destination of items and answers.
        handler: The handler of the step.
        check: Checks what ``handle`` returns.
        event_loop: Runs the calls.
        yields: Whether ``handle`` is an asynchronous generator.

    Attributes:
        hand: The tasks of the calls.
        finished: Tasks that were finished before the end of their calls, and are to be answered.
    """

    def __init__(
        self, worker: Worker, handler: BaseTaskHandler, check: ReturnCheck, event_loop: EventLoop, yields: bool
    ) -> None:
        self.hand = LoopHand(worker, self)
        self.finished: list[Entry] = []
        self._worker = worker
        self._handler = handler
        self._check = check
        self._event_loop = event_loop
        self._yields = yields
        self._waiting: deque[tuple[list[Envelope], int]] = deque()  # calls that have not begun: tasks, and their batch
        self._running: set[_Call] = set()
        self._calls: dict[int, _Call] = {}  # those that run, by the id of each of their tasks
        self._paused: dict[int, asyncio.Future[None]] = {}  # what those wait for whose consumers are behind
        self._is_attending_soon = False
        # That of `on_start`. Each call has a copy, and callbacks must keep no variable of a call.
        self._context = contextvars.Context()
        self._loop: asyncio.AbstractEventLoop
        self._heartbeat: Heartbeat
        self._ended: asyncio.Future[None]

    def run(self) -> None:
        """Work until the API process sends STOP and all calls have ended.

        Raises:
            EOFError: The API process has ended.
        """
        self._event_loop.run(self._run())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        context = self._worker.context
        self._context = contextvars.copy_context() if context is None else context.base()
        self._heartbeat = Heartbeat(self._worker, self._running, self._loop, self._context)
        fd = self._worker.channel.fileno()
        self._loop.add_reader(fd, self._receive)
        try:
            self._attend()
            await self._ended
        finally:
            self._loop.remove_reader(fd)
            self._heartbeat.close()

    def attend_soon(self) -> None:
        """Answer, send, begin and end what is to be, once for all calls that run in this turn of the event loop."""
        if not self._is_attending_soon:
            self._is_attending_soon = True
            self._loop.call_soon(self._attend, context=self._context)

    def _receive(self) -> None:
        try:
            self._worker.look()
        except BaseException as exc:  # above all EOFError
            self._fail(exc)
        else:
            self._attend()

    def _fail(self, error: BaseException) -> None:
        """End the worker's run."""
        if not self._ended.done():
            self._ended.set_exception(error)

    def _attend(self) -> None:
        self._is_attending_soon = False
        try:
            self._begin_pending()
            self._send()
        except BaseException as exc:
            self._fail(exc)

    def _begin_pending(self) -> None:
        """Do what the API process has asked for, also in frames that were received elsewhere."""
        worker = self._worker
        for batch in worker.pending:
            size = batch.size or len(batch.envelopes)
            for start in range(0, len(batch.envelopes), size):
                self._waiting.append((batch.envelopes[start : start + size], batch.number))
        worker.pending.clear()
        while self._waiting and len(self._running) < worker.setup.places:
            self._begin(*self._waiting.popleft())
        if worker.cancelled:
            self._end_cancelled()
        if worker.is_check_due:
            worker.check_if_due()
        for id, resumed in self._paused.items():
            if id not in worker.paused and not resumed.done():
                resumed.set_result(None)

    def _send(self) -> None:
        """Send what is ready."""
        for entry in self.finished:
            self.hand.answer(entry)
        self.finished.clear()
        self._worker.flush()
        if self._running:
            return
        if not self._worker.is_stopping:
            self._heartbeat.rest()
        elif not self._ended.done():
            self._ended.set_result(None)

    def _begin(self, envelopes: list[Envelope], number: int) -> None:
        entries = [entry for envelope in envelopes if (entry := self.hand.add(envelope, number)) is not None]
        if not entries:
            return
        if not self._running:
            self._heartbeat.start()
        call = _Call(entries)
        self._running.add(call)
        for entry in entries:
            self._calls[entry.envelope.id] = call
        call.running = self._loop.create_task(self._run_call(call), context=self._context.copy())
        self._heartbeat.note()

    async def _run_call(self, call: _Call) -> None:
        call.has_begun = True
        call.turn_at = time.monotonic()
        source.set(call.in_hand)  # in the context of this call
        failure = b""
        try:
            if not call.is_left:
                if self._worker.context is not None:
                    self._worker.context.enter([entry.envelope for entry in call.entries])
                await (self._iterate(call, call.entries[0]) if self._yields else self._handle(call))
        except BaseException as exc:  # also SystemExit: a request must not end its worker
            failure = self._failure_of(call, exc)
        if self._worker.channel.is_closed:
            end_fork()
        try:
            self._end(call, failure)
        except BaseException as exc:
            self._fail(exc)

    async def _handle(self, call: _Call) -> None:
        value = await self._handler.handle(*[entry.task for entry in call.entries])
        if value is not None:
            self._check.note(value)

    async def _iterate(self, call: _Call, entry: Entry) -> None:
        """Run an asynchronous generator. What it yields is an item."""
        id, worker, hand = entry.envelope.id, self._worker, self.hand
        slept_at = call.turn_at
        async with aclosing(self._handler.handle(entry.task)) as items:
            async for item in items:
                if worker.channel.is_closed:
                    end_fork()
                if item is not None:
                    hand.emit_yielded(entry, item)
                    item = None  # it may be a view of one of the task's blocks
                    self.attend_soon()
                if entry.is_finished or entry.has_failed:
                    return
                if id in worker.paused:
                    await self._pause(id, call)
                call.turn_at = time.monotonic()
                if call.turn_at - slept_at > FRAME_BUDGET:
                    await asyncio.sleep(0)  # a generator that does not wait would keep the others from running
                    slept_at = call.turn_at = time.monotonic()

    async def _pause(self, id: int, call: _Call) -> None:
        """Wait until the consumer has caught up."""
        call.turn_at = math.inf
        resumed = self._paused[id] = self._loop.create_future()
        try:
            await resumed
        finally:
            del self._paused[id]

    def _failure_of(self, call: _Call, error: BaseException) -> bytes:
        is_cancelled = isinstance(error, asyncio.CancelledError)
        if call.is_left or all(entry.is_finished for entry in call.entries):
            if not is_cancelled:
                log_unheard(self._handler, error)
            return b""
        if call.is_late and is_cancelled:
            timeout = HandlerTimeout(
                f"a call of the handler of step {self._worker.setup.name} was cancelled: "
                f"{'its next item' if self._yields else 'it'} took longer than "
                f"handle_timeout={self._heartbeat.limit:g} s"
            )
            timeout.__cause__ = error
            return encode_error(timeout)
        return encode_error(error)

    def _end(self, call: _Call, failure: bytes) -> None:
        hand = self.hand
        self._running.discard(call)
        for entry in call.entries:
            del self._calls[entry.envelope.id]
        if failure and len(call.entries) > 1 and self._may_run_again(call):
            # One bad input must not fail the others of its batch: each runs again, alone, from an untouched copy.
            for entry in reversed(call.entries):
                hand.drop(entry)
                self._waiting.appendleft(([entry.envelope], entry.number))
        else:
            for entry in call.entries:
                hand.end(entry, failure)
        call.entries.clear()
        if time.monotonic() - self._worker.flushed_at > FRAME_BUDGET:
            self._attend()  # not after all others that run in this turn of the event loop
        else:
            self.attend_soon()

    def _may_run_again(self, call: _Call) -> bool:
        if any(entry.has_emitted or entry.is_finished for entry in call.entries):
            return False
        return not call.is_left and self._worker.may_run_again([entry.envelope for entry in call.entries])

    def _end_cancelled(self) -> None:
        worker = self._worker
        waiting = {envelope.id for envelopes, _ in self._waiting for envelope in envelopes}
        worker.cancelled.intersection_update(waiting.union(self._calls))  # a cancellation may cross the answer
        for id in worker.cancelled & self._calls.keys():
            call = self._calls[id]
            if all(entry.envelope.id in worker.cancelled for entry in call.entries):
                call.leave()
