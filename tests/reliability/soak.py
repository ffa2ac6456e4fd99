"""A soak: clients whose uploads fail in every way, beside others that must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

from .soaked import KINDS, LARGEST
from .support import resident

GOOD_CLIENTS = 8
BAD_CLIENTS = 8

KILL_INTERVAL = (2.0, 4.0)
"""Seconds from one death of a worker to the next: the three workers load faster than they die."""

_FORM = 'Content-Type: multipart/form-data; boundary="b"'
_IMAGE = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
_END = b"\r\n--b--\r\n"
_WRONG_FIELD = b'\r\n--b\r\nContent-Disposition: form-data; name="number"\r\n\r\nnone' + _END


@dataclass(frozen=True)
class Mishap:
    """A way in which an upload fails.

    Attributes:
        name: Tells it apart.
        status: The answer to it; 0: none.
        path: Where it is sent to; empty: any of `KINDS`.
        query: The parameters of the task.
        size: Bytes of the upload; None: any number.
        end: What follows the upload where it is the part of a form; None: it is no form.
        sent: How much of the body is sent.
        stays: Whether the client waits for the answer, or leaves when it has sent that.
        others: Statuses that it may have as well. An answer that comes before the body was read may be lost (0): what
            the client still sends is answered by a reset of the connection, which discards what it has not read.
    """

    name: str
    status: int
    path: str = ""
    query: str = ""
    size: int | None = None
    end: bytes | None = None
    sent: float = 1.0
    stays: bool = True
    others: tuple[int, ...] = ()

    def allows(self, status: int) -> bool:
        """Tell whether a client may see a status."""
        return status in (self.status, *self.others)


MISHAPS = (
    Mishap("handler raises", 500, query="fate=raise"),
    Mishap("task fails", 500, query="fate=fail"),
    # It is refused at once where those before it take so long that it will be late.
    Mishap("timeout", 504, path="hasty", query="fate=dawdle", others=(503, 0)),
    Mishap("unknown parameter", 422, query="fate=none", others=(0,)),
    Mishap("wrong field", 422, end=_WRONG_FIELD),
    Mishap("form without an end", 400, end=b""),
    Mishap("too large", 413, size=LARGEST + 1, others=(0,)),
    Mishap("slow client", 408, sent=0.5),
    Mishap("client leaves the upload", 0, sent=0.5, stays=False),
    Mishap("client leaves the worker", 0, stays=False),
)

DEATH = Mishap("worker dies", 503, query="fate=die")


@dataclass
class Exchange:
    """One request, byte by byte.

    Args:
        port: Of the server.
        path: What is posted to.
        body: What is announced.
        headers: Beside the usual ones.
        sent: How much of the body is sent.
        stays: Whether the client waits for the answer, or leaves when it has sent that.
        method: Of the request.

    Attributes:
        answer: What came back.
    """

    port: int
    path: str
    body: bytes = b""
    headers: str = "Accept: */*"
    sent: float = 1.0
    stays: bool = True
    method: str = "POST"
    answer: bytes = b""

    async def run(self) -> int:
        """Return the status; 0 when there is none."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        # While it sends: a stream forgets what it has received when the connection is reset.
        receiving = asyncio.create_task(self._receive(reader))
        with contextlib.suppress(ConnectionError):  # it may be refused while it sends
            await self._send(writer)
        if self.stays:
            await receiving
        receiving.cancel()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return int(self.answer.split(b" ", 2)[1]) if self.answer else 0

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        usual = f"Host: test\r\nConnection: close\r\nContent-Length: {len(self.body)}"
        writer.write(f"{self.method} /{self.path} HTTP/1.1\r\n{usual}\r\n{self.headers}\r\n\r\n".encode())
        sent = int(self.sent * len(self.body))
        for start in range(0, sent, 1 << 16):
            writer.write(self.body[start : min(start + (1 << 16), sent)])
            await writer.drain()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self.answer += data

    @property
    def content(self) -> bytes:
        """The body of the answer."""
        return self.answer.partition(b"\r\n\r\n")[2]


@dataclass
class Soak:
    """Clients that upload to a service until the time is over.

    Args:
        port: Of the service.
        pid: Its process.
        ends_at: The end, on the clock of ``time.monotonic``.

    Attributes:
        good: How many uploads that should succeed were answered how.
        bad: The same of those that fail, by what befalls them.
        kills: Signals that were sent to workers.
        sizes: Bytes of memory of the server, one a second.
    """

    port: int
    pid: int
    ends_at: float
    good: Counter[str] = field(default_factory=Counter)
    bad: Counter[tuple[Mishap, int]] = field(default_factory=Counter)
    kills: int = 0
    sizes: list[int] = field(default_factory=list)

    async def run(self, chance: random.Random) -> None:
        """Have all of them upload, kill workers and measure the server meanwhile."""
        seeds = iter([random.Random(chance.random()) for _ in range(GOOD_CLIENTS + BAD_CLIENTS + 1)])
        async with asyncio.TaskGroup() as group:
            for _ in range(GOOD_CLIENTS):
                group.create_task(self._succeed(next(seeds)))
            for _ in range(BAD_CLIENTS):
                group.create_task(self._fail(next(seeds)))
            group.create_task(self._kill(next(seeds)))
            group.create_task(self._measure())

    def growth(self) -> int:
        """Tell by how many bytes the server is larger in the last third than in the second."""
        third = len(self.sizes) // 3
        return int(statistics.median(self.sizes[-third:]) - statistics.median(self.sizes[third : 2 * third]))

    def __str__(self) -> str:
        bad = sorted((mishap.name, status, count) for (mishap, status), count in self.bad.items())
        shown = ", ".join(f"{count} x {name}: {status or 'no answer'}" for name, status, count in bad)
        return (
            f"{self.good['right']:,} of {self.good.total():,} good uploads answered; {shown}; "
            f"{self.kills} workers killed besides; the server had {self.sizes[len(self.sizes) // 2] >> 20} MiB "
            f"and grew by {self.growth() >> 10} KiB"
        )

    def _is_over(self) -> bool:
        return time.monotonic() >= self.ends_at

    async def _succeed(self, chance: random.Random) -> None:
        while not self._is_over():
            value, size = chance.randrange(256), _size(chance)
            content = bytes([value]) * size
            path = chance.choice(KINDS)
            if chance.random() < 0.5:
                exchange = Exchange(self.port, path, content)
            else:
                exchange = Exchange(self.port, path, _IMAGE + content + _END, _FORM)
            status = await exchange.run()
            is_right = status == 200 and exchange.content == f"{value * size}".encode()
            self.good["right" if is_right else f"{path}: {exchange.answer[:300]!r}"] += 1

    async def _fail(self, chance: random.Random) -> None:
        while not self._is_over():
            await self._suffer(chance.choice(MISHAPS), chance)

    async def _suffer(self, mishap: Mishap, chance: random.Random) -> None:
        content = bytes(mishap.size or _size(chance))
        exchange = Exchange(self.port, f"{mishap.path or chance.choice(KINDS)}?{mishap.query}", content)
        if mishap.end is not None:
            exchange.body, exchange.headers = _IMAGE + content + mishap.end, _FORM
        exchange.sent, exchange.stays = mishap.sent, mishap.stays
        self.bad[mishap, await exchange.run()] += 1

    async def _kill(self, chance: random.Random) -> None:
        """Have workers die, in turns of an upload that kills them and of a signal while they work on good ones."""
        while not self._is_over():
            await asyncio.sleep(chance.uniform(*KILL_INTERVAL))
            await self._suffer(DEATH, chance)
            await asyncio.sleep(chance.uniform(*KILL_INTERVAL))
            listing = Exchange(self.port, "workers", method="GET")
            await listing.run()
            os.kill(chance.choice(json.loads(listing.content)), signal.SIGKILL)
            self.kills += 1

    async def _measure(self) -> None:
        while not self._is_over():
            self.sizes.append(resident(self.pid))
            await asyncio.sleep(1.0)


def _size(chance: random.Random) -> int:
    return chance.randrange(100_000, 2 << 20)
