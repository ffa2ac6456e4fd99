"""Timers that ignore pauses of this process: a stop signal, a debugger, a blocked event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a worker uses this module too and needs no event loop
    import asyncio

PAUSE = 0.5
"""Seconds of delay from which a timer assumes a pause. A loop that is only busy is late by less."""


class FairTimer:
    """Calls a function after a delay during which the event loop has run.

    A timer that fires late has slept through a pause, and events that arrived during the pause may still be unread:
    epoll_wait(2) is interrupted by SIGCONT and returns no events when its timeout has passed. So the timer starts again
    with its whole delay, and the loop reads what has arrived. The alternative, a timer that looks at the sockets
    itself, would need to know them all.

    Args:
        callback: Called without arguments.

    Attributes:
        delay: Seconds of the last `start`.
    """

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self.delay = 0.0
        self._due = 0.0

    @property
    def is_running(self) -> bool:
        """Whether the function will be called."""
        return self._handle is not None

    def start(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        """Start, or start again.

        Args:
            loop: The event loop.
            delay: Seconds.
        """
        self.cancel()
        self._loop = loop
        self.delay = delay
        self._due = time.monotonic() + delay
        self._handle = loop.call_later(delay, self._fire)

    def cancel(self) -> None:
        """Stop without calling the function."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        if time.monotonic() > self._due + PAUSE:
            self.start(self._loop, self.delay)
        else:
            self._callback()


async def wait_fairly(future: asyncio.Future[Any], timeout: float) -> bool:
    """Wait until a future is done, for at most ``timeout`` seconds during which the event loop has run.

    A cancellation of the caller does not cancel the future.

    Returns:
        Whether the future is done.
    """
    import asyncio

    while True:
        due = time.monotonic() + timeout
        done, _ = await asyncio.wait([future], timeout=timeout)
        if done or time.monotonic() <= due + PAUSE:
            return bool(done)
