"""What a flow without tasks does: it tells who waits for that, and lets its memory go when it stays so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sized

from ..system.fair_timer import wait_fairly


class Idle:
    """Notices that a flow has nothing to do.

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
        """Take in that the last task is settled.

        Args:
            loop: Where the flow works; None when it has stopped.
        """
        self._began_at = time.monotonic()
        waiting = self._waiting
        if waiting is not None and not waiting.done() and not waiting.get_loop().is_closed():
            waiting.set_result(None)
        if self._timer is None and loop is not None:
            self._timer = loop.call_later(self._idle_time, self._look, loop)

    def cancel(self) -> None:
        """Forget that the memory was to go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait(self, timeout: float) -> bool:
        """Wait until no task is left.

        Returns:
            Whether that came about within ``timeout`` seconds.
        """
        if not self._in_flight:
            return True
        self._waiting = asyncio.get_running_loop().create_future()
        is_idle = await wait_fairly(self._waiting, timeout)
        self._waiting = None
        return is_idle

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        # One timer that looks again, not one that each task cancels.
        self._timer = None
        if self._in_flight:
            return
        remaining = self._began_at + self._idle_time - time.monotonic()
        if remaining > 0:
            self._timer = loop.call_later(remaining, self._look, loop)
        else:
            self._on_idle()
