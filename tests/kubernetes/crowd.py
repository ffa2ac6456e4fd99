"""Clients of the service: requests at random times, and what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp

from .journal import Journal

SIZE = 20_000
"""Bytes of a picture."""

PATIENCE = 30.0
"""Seconds in which an answer must come."""

PERIOD = 1.0
"""Seconds between two entries in the journal."""


class Crowd:
    """Sends requests, each in a connection of its own, whatever the service answers.

    Args:
        url: Where the requests go.
        journal: Where their number is written.

    Attributes:
        rate: Requests a second.
        totals: Requests by what became of them: ``answered``, ``refused`` (503 with Retry-After) or ``lost``.
        losses: What the answers to lost ones were.
    """

    def __init__(self, url: str, journal: Journal) -> None:
        self.rate = 0.0
        self.totals: Counter[str] = Counter()
        self.losses: list[str] = []
        self._url = url
        self._journal = journal
        self._counts: Counter[str] = Counter()
        self._times: list[float] = []
        self._random = random.Random(7)

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send until the end of the context, and wait for the last answers."""
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            noting = asyncio.ensure_future(self._note())
            sending = asyncio.ensure_future(self._send(http))
            try:
                yield
            finally:
                self.rate = 0.0
                sending.cancel()
                await asyncio.wait([sending])
                noting.cancel()
                await asyncio.wait([noting])
                self._note_counts()

    async def _send(self, http: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        requests: set[asyncio.Task[None]] = set()
        at = loop.time()
        try:
            while True:
                at = max(at, loop.time() - PERIOD)
                await asyncio.sleep(max(0.0, at - loop.time()) if self.rate else 0.1)
                if self.rate:
                    requests.add(task := asyncio.create_task(self._request(http)))
                    task.add_done_callback(requests.discard)
                    at += self._random.expovariate(self.rate)
        finally:
            if requests:
                await asyncio.wait(requests)

    async def _request(self, http: aiohttp.ClientSession) -> None:
        picture = self._random.randbytes(SIZE)
        begun_at = asyncio.get_running_loop().time()
        try:
            async with http.post(f"{self._url}/ocr", data=picture) as answer:
                fate = await _judge(answer, picture)
        except (aiohttp.ClientError, TimeoutError) as exc:
            fate = repr(exc)
        if fate not in ("answered", "refused"):
            self.losses.append(fate)
            self._journal.note("lost", answer=fate)
            fate = "lost"
        elif fate == "answered":
            self._times.append(asyncio.get_running_loop().time() - begun_at)
        self.totals[fate] += 1
        self._counts[fate] += 1

    async def _note(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            self._note_counts()

    def _note_counts(self) -> None:
        times = sorted(self._times) or [0.0]
        self._journal.note("traffic", **self._counts, median=round(times[len(times) // 2], 3))
        self._counts.clear()
        self._times.clear()


async def _judge(answer: aiohttp.ClientResponse, picture: bytes) -> str:
    if answer.status == 503 and "Retry-After" in answer.headers:
        return "refused"
    if answer.status == 200 and await answer.json() == [text_of(picture)]:
        return "answered"
    return f"{answer.status} {await answer.text()}"


def text_of(picture: bytes | memoryview) -> str:
    """Return what the model of the images reads in a picture."""
    return hashlib.sha256(picture).hexdigest()
