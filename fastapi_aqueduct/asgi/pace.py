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
    falls below the least rate.

    Args:
        limits: How slow a client may be.
    """

    def __init__(self, limits: UploadLimits) -> None:
        self._idle = math.inf if limits.idle_timeout is None else limits.idle_timeout
        self._min_rate = limits.min_rate
        self._grace = limits.grace
        self._received = 0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._timeout = asyncio.timeout_at(self._due())
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(exc_type, exc, traceback)
        except TimeoutError:
            # Else the server would go on waiting for the rest, to use the connection again.
            raise BodyTooSlow("The body came too slowly.", {"Connection": "close"}) from exc

    def note(self, received: int) -> None:
        """Take in how much has come altogether."""
        self._received = received
        self._timeout.reschedule(self._due())

    def pause(self) -> None:
        """Stop the clock while the client is made to wait."""
        self._paused_at = self._loop.time()
        self._timeout.reschedule(None)

    def resume(self) -> None:
        """Let the clock go on."""
        self._start += self._loop.time() - self._paused_at
        self._timeout.reschedule(self._due())

    def _due(self) -> float | None:
        behind = self._start + self._grace + self._received / self._min_rate if self._min_rate else math.inf
        due = min(self._loop.time() + self._idle, behind)
        return None if due == math.inf else due
