"""Gives up clients that do not read their answer."""

from __future__ import annotations

import asyncio
import fcntl
import math
import struct
import termios
from types import TracebackType
from typing import Self

from ..exceptions import AqueductError

CHECKS = 4
"""Checks of the connection in the time in which it must make progress."""


class Stalled(AqueductError):
    """The client has read nothing of its answer for too long."""


class StallTimeout:
    """Cancels its body when the client reads nothing for too long.

    A piece that the server has accepted is progress. Where the connection is known, so is every byte that leaves it:
    the kernel lets a server write again only when a third of its buffer is empty, which can take a slow client many
    seconds.

    Args:
        seconds: The limit; None: there is none.
        transport: The connection, if it is known.

    Attributes:
        is_idle: Whether there is nothing to send, which is no stall.

    Raises:
        Stalled: From the context.
    """

    def __init__(self, seconds: float | None, transport: asyncio.Transport | None) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self.is_idle = False
        self._transport = transport
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._timeout.__aenter__()
        self.note()
        self._wait()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._timeout.__aexit__(exc_type, exc, traceback)
        except TimeoutError:
            raise Stalled(f"the client has read nothing of its answer for {self._seconds:g} s") from None

    def note(self) -> None:
        """Note that the server has accepted a piece."""
        self._last = self._loop.time()

    def _wait(self) -> None:
        if self._seconds < math.inf:
            self._timer = self._loop.call_later(self._seconds / CHECKS, self._check)

    def _check(self) -> None:
        before, self._unsent = self._unsent, _unsent(self._transport)
        if self.is_idle or self._unsent < before:
            self.note()
        if self._loop.time() - self._last < self._seconds:
            self._wait()
        else:
            self._timeout.reschedule(self._loop.time())


def _unsent(transport: asyncio.Transport | None) -> int:
    """Return the number of bytes that the client has not acknowledged."""
    if transport is None:
        return 0
    try:
        # SIOCOUTQ of tcp(7) and unix(7), which only Linux has.
        number = transport.get_extra_info("socket").fileno()
        queued: int = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)))[0]
    except OSError:
        queued = 0
    return queued + transport.get_write_buffer_size()
