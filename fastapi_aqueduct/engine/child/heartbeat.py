"""The heartbeat of an event loop: notes that it is alive while calls run, and cancels those that take too long."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import time
from collections.abc import Collection
from typing import Protocol

from .worker import IDLE_AFTER, Worker

INTERVAL = 5.0
"""Seconds between two notes without `handle_timeout`."""


class Timed(Protocol):
    """A call with a time limit.

    Attributes:
        turn_at: Since when its time counts, on the clock of ``time.monotonic``; infinity while it does not.
    """

    turn_at: float

    def cancel_late(self) -> None:
        """Cancel it, since it takes too long."""


class Heartbeat:
    """Notes on the status page when the next note is due, from the event loop itself: one that is blocked makes none.

    One timer serves all calls, and runs only while there are any. If it fires late, no call is charged for that time.
    The API process kills a worker whose note is older than `handle_timeout`; because the note is that of the next beat,
    a loop is never killed that was blocked for less.

    Args:
        worker: The worker.
        calls: The calls that run.
        loop: The event loop.
        context: The context of its callbacks, which must keep no variable of a call.

    Attributes:
        limit: Seconds that a call may take; infinity without `handle_timeout`.
    """

    def __init__(
        self,
        worker: Worker,
        calls: Collection[Timed],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
    ) -> None:
        self.limit = worker.setup.handle_timeout or math.inf
        self._interval = min(self.limit / 4, INTERVAL)
        self._worker = worker
        self._calls = calls
        self._loop = loop
        self._context = context
        self._due_at = math.inf
        self._next_at = 0.0  # when the timer should fire
        self._timer: asyncio.TimerHandle | None = None  # the next beat, or the end of `IDLE_AFTER`
        worker.parent_death_signal.disarm()

    def start(self) -> None:
        """Begin, before the first call."""
        if self._timer is None:
            self._worker.parent_death_signal.arm()
        else:
            self._timer.cancel()
        self._next_at = math.inf
        self._beat()

    def note(self) -> None:
        """Note that any call may be the one that ends the process, not the last task that was decoded."""
        self._worker.note_call(0, self._due_at)

    def rest(self) -> None:
        """Note that no call runs."""
        self._worker.note_call(0, math.inf)
        if self._timer is not None:
            self._timer.cancel()
            # Not for each pause between two tasks: it costs two system calls.
            self._timer = self._loop.call_later(IDLE_AFTER, self._become_idle, context=self._context)

    def close(self) -> None:
        """End, before `on_stop`."""
        if self._timer is not None:
            self._timer.cancel()
        self._worker.note_call(0, math.inf)

    def _beat(self) -> None:
        now = time.monotonic()
        # The process has paused, or a call has blocked the loop: the others could not run. They may do so now, before
        # their time is over.
        pause = max(0.0, now - self._next_at)
        next_at = self._due_at = now + self._interval
        for call in self._calls:
            call.turn_at += pause
            late_at = call.turn_at + self.limit
            if late_at <= now:
                call.cancel_late()
            else:
                next_at = min(next_at, late_at)
        self.note()
        self._next_at = next_at
        self._timer = self._loop.call_later(next_at - now, self._beat, context=self._context)

    def _become_idle(self) -> None:
        self._timer = None
        with contextlib.suppress(OSError):  # the API process has ended, which the reader of the channel notices
            self._worker.flush()  # blocks that the context of an asyncio task has kept longer than its call
        self._worker.parent_death_signal.disarm()
