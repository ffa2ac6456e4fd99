"""The hub: looks at the flows once for all open pages, and only while there are any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

INTERVAL = 1.0
"""Seconds between two looks."""

END = b"event: end\ndata: the server is stopping\n\n"


class Hub:
    """Sends what it sees to all followers.

    Args:
        look: Returns what is to be sent.
        interval: Seconds between two looks.
    """

    def __init__(self, look: Callable[[], Awaitable[bytes]], interval: float = INTERVAL) -> None:
        self._look = look
        self._interval = interval
        self._is_open = False
        self._followers = 0
        self._looking: asyncio.Task[None] | None = None
        self._latest = b""
        self._number = 0
        self._news = asyncio.Event()

    def open(self) -> None:
        """Let followers stay from now on."""
        self._is_open = True

    def end(self) -> None:
        """End all followers: servers wait for open responses when they stop."""
        self._is_open = False
        self._tell()

    async def follow(self, only_one: bool = False) -> AsyncGenerator[bytes]:
        """Yield events of Server-Sent Events until `end`; who is slow misses some.

        Args:
            only_one: Whether to yield one only. The client asks again then.
        """
        seen = self._number if self._looking is None else -1
        self._followers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._keep_looking())
        looking = self._looking
        try:
            while True:
                if seen != self._number and self._latest:
                    seen = self._number
                    yield self._latest
                    if only_one:
                        return
                if not self._is_open:
                    yield END
                    return
                if looking.done():
                    looking.result()
                    return
                await self._news.wait()
        finally:
            self._followers -= 1
            if not self._followers:
                looking.cancel()
                self._looking = None

    async def _keep_looking(self) -> None:
        try:
            while True:
                document = await self._look()
                self._latest = b"data: " + document + b"\n\n"
                self._number += 1
                self._tell()
                await asyncio.sleep(self._interval)
        finally:
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
