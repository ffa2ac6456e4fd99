"""Idle handling: wakes `wait_idle()` callers and, after a time without tasks, returns cached memory to the OS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sized

from ..system.fair_timer import wait_fairly


class Idle:
    """Tells when a flow has no task.

    Args:
        in_flight: The tasks that are not settled.
        on_idle: Called when there was none for `idle_time`.
        idle_time: Seconds.
    """

    def __init__(self, in_flight: Sized, on_idle: Callable[[], None], idle_time: float) -> None:
        self._in_flight = in_flight
        self._on_idle = on_idle
        self._idle_time = idle_time
        self._began_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Future[None] | None = None

    def begin(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Note that the last task is settled.

        Args:
            loop: Where the flow works; None when it has stopped.
        """
        self._began_at = time.monotonic()
        waiting = self._waiting
        if waiting is not None and not waiting.done() and not waiting.get_loop().is_closed():
            waiting.set_result(None)
        if self._timer is None and loop is not None:
            self._timer = loop.call_later(self._idle_time, self._check, loop)

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait(self, timeout: float) -> bool:
        """Wait until no task is left.

        Returns:
            Whether that happened within ``timeout`` seconds.
        """
        if not self._in_flight:
            return True
        self._waiting = asyncio.get_running_loop().create_future()
        is_idle = await wait_fairly(self._waiting, timeout)
        self._waiting = None
        return is_idle

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        # One timer that is set again, not one that each task cancels.
        self._timer = None
        if self._in_flight:
            return
        remaining = self._began_at + self._idle_time - time.monotonic()
        if remaining > 0:
            self._timer = loop.call_later(remaining, self._check, loop)
        else:
            self._on_idle()
