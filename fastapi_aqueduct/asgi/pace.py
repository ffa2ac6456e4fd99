"""Refuses clients that send a body too slowly."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self

from .errors import BodyTooSlow
from .limits import UploadLimits


class Pace:
    """Ends what runs inside it when the client falls idle, or behind the least rate.

    One timer serves both: the next byte is due before the client has been idle for too long and before its average
    falls below the least rate. It looks at what has come only when it goes off, so that a chunk costs nearly nothing.

    Args:
        limits: How slow a client may be.
    """

    def __init__(self, limits: UploadLimits) -> None:
        self._idle = math.inf if limits.idle_timeout is None else limits.idle_timeout
        self._min_rate = limits.min_rate
        self._grace = limits.grace
        self._received = 0
        self._has_expired = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._start = self._last = self._loop.time()
        self._wait()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pause()
        # As in asyncio.timeout: a cancellation from elsewhere goes on.
        if self._has_expired and self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
            # The connection is closed: else the server would go on waiting for the rest, to use it again.
            raise BodyTooSlow("The body came too slowly.", {"Connection": "close"}) from exc

    def note(self, received: int) -> None:
        """Take in how much has come altogether."""
        self._received = received
        self._last = self._loop.time()

    def pause(self) -> None:
        """Stop the clock while the client is made to wait."""
        self._paused_at = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resume(self) -> None:
        """Let the clock go on."""
        waited = self._loop.time() - self._paused_at
        self._start += waited
        self._last += waited
        self._wait()

    def _wait(self) -> None:
        behind = self._start + self._grace + self._received / self._min_rate if self._min_rate else math.inf
        due = min(self._last + self._idle, behind)
        if due > self._loop.time():
            self._timer = None if due == math.inf else self._loop.call_at(due, self._wait)
        else:
            self._has_expired = True
            self._task.cancel()
