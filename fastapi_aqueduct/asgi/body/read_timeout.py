"""Refuses clients that send a body too slowly."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from types import TracebackType
from typing import Self

from ..errors import BodyTooSlow
from ..settings import UploadLimits

PARTS = 4
"""Checks of the rate in one window: each judges the bytes since the fourth check before it."""

SECOND_LOOK = 0.1
"""Seconds that the event loop has to read what has arrived before a client is refused."""

PAUSE = 0.5
"""Seconds by which a timer fires late when the server has paused: it was stopped, or its event loop was blocked."""


class ReadTimeout:
    """Cancels its body when the client sends nothing for too long, or less than the least rate.

    The rate is that of the last `UploadLimits.grace` seconds, so bytes that were sent quickly before do not count. One
    timer serves both limits and looks at the number of bytes only when it fires, so a chunk costs nearly nothing.

    A pause of the server is not charged to the client: meanwhile the kernel keeps only what fits into the buffers of a
    socket. Therefore a timer that fires late begins a new window, and no client is refused before the event loop has
    had time to read what has arrived.

    It may be entered again: the time between is not charged either.

    Args:
        limits: How slow a client may be.

    Raises:
        BodyTooSlow: From the context.
    """

    def __init__(self, limits: UploadLimits) -> None:
        self._idle = math.inf if limits.idle_timeout is None else limits.idle_timeout
        self._least = limits.min_rate * limits.grace
        self._interval = limits.grace / PARTS if self._least else math.inf
        self._received = 0
        self._refusal: Exception | None = None
        self._paused_at: float | None = None
        self._term: float | None = None
        self._timer: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._paused_at is None:
            self._last = self._loop.time()
            self._begin_window(self._last)
            self._wait()
        else:
            self.resume()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pause()
        refusal, self._refusal = self._refusal, None
        try:
            # As in asyncio.timeout: a cancellation from elsewhere is passed on.
            if refusal and self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
                raise refusal from exc
        finally:
            del refusal  # it refers to this frame: a cycle

    def refuse(self, refusal: Exception) -> None:
        """Cancel the body and raise another exception from the context."""
        self._refusal = refusal
        self._task.cancel()

    def note(self, received: int) -> None:
        """Note the number of all bytes that have come."""
        self._received = received
        self._last = self._loop.time()

    def pause(self) -> None:
        """Stop the clock while the server makes the client wait."""
        self._paused_at = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resume(self) -> None:
        """Start the clock again."""
        assert self._paused_at is not None
        waited = self._loop.time() - self._paused_at
        self._last += waited
        self._next_mark += waited
        self._wait()

    def _begin_window(self, now: float) -> None:
        self._marks = deque([self._received])
        self._next_mark = now + self._interval

    def _wait(self) -> None:
        due = min(self._last + self._idle, self._next_mark)
        self._due = max(due, self._loop.time())
        self._timer = None if due == math.inf else self._loop.call_at(self._due, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        if now > self._due + PAUSE:
            self._begin_window(now)
        if self._is_too_slow(now):
            # Kept through a pause: a client cannot extend its term with a byte now and then.
            self._term = self._term or now + SECOND_LOOK
            self._timer = self._loop.call_at(self._term, self._check_again)
        else:
            self._continue(now)

    def _check_again(self) -> None:
        # Behind the tasks that were woken by what the loop has read.
        self._timer = self._loop.call_soon(self._judge)

    def _judge(self) -> None:
        now = self._loop.time()
        if self._is_too_slow(now):
            # Closes the connection; otherwise the server would wait for the rest of the body, to use it again.
            self.refuse(BodyTooSlow("The body came too slowly.", {"Connection": "close"}))
        else:
            self._continue(now)

    def _continue(self, now: float) -> None:
        self._term = None
        if now >= self._next_mark:
            if len(self._marks) == PARTS:
                self._marks.popleft()
            self._marks.append(self._received)
            self._next_mark = now + self._interval
        self._wait()

    def _is_too_slow(self, now: float) -> bool:
        if now >= self._last + self._idle:
            return True
        is_complete = now >= self._next_mark and len(self._marks) == PARTS
        return is_complete and self._received - self._marks[0] < self._least
