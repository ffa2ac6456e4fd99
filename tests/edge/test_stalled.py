"""Clients that take nothing of an answer from shared memory, or little at a time."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import h2.events

from ..support import DEADLINE, eventually
from .application import STALL
from .servers import GRANIAN, HYPERCORN, SERVERS, STARLETTE, UVICORN, EdgeService
from .ways import WIRE2, Way, along
from .wire import Connection2

SIZE = 8_000_000
REQUEST = b"%s /stalled?size=%d HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


async def connect(url: str) -> socket.socket:
    """Connect with a small buffer: nearly all that is not read stays with the server."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
    client.setblocking(False)
    host, _, port = url.removeprefix("http://").partition(":")
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    return client


async def receive(client: socket.socket, size: int = 1 << 16) -> bytes:
    """Take something of the answer; nothing when the connection is closed."""
    try:
        async with asyncio.timeout(DEADLINE):
            return await asyncio.get_running_loop().sock_recv(client, size)
    except ConnectionResetError:
        return b""


@along([Way(server, "http1") for server in SERVERS])
async def test_a_client_that_reads_nothing(url: str, service: EdgeService) -> None:
    """The server waits for the stall timeout; then the block is released and the connection closed."""
    with await connect(url) as client:
        await asyncio.get_running_loop().sock_sendall(client, REQUEST % (b"GET", SIZE))
        await eventually(lambda: service.figures()["blocks"] == 1)
        begun = time.monotonic()
        await eventually(lambda: service.figures()["blocks"] == 0)
        assert time.monotonic() - begun > STALL / 2
        received = 0
        while data := await receive(client):
            received += len(data)
        assert received < 4 * SIZE


class Frozen(Connection2):
    """Never lets the server send more than the first 64 KiB."""

    def _take(self, event: Any) -> None:
        if not isinstance(event, h2.events.DataReceived):
            super()._take(event)


@along(WIRE2)
async def test_a_window_that_stays_closed(url: str, service: EdgeService) -> None:
    """HTTP/2 has a flow control of its own."""
    async with Frozen(url) as connection:
        await connection.begin("GET", f"/stalled?size={SIZE}", {}, has_body=False)
        await eventually(lambda: service.figures()["blocks"] == 1)
        await eventually(lambda: service.figures()["blocks"] == 0)


@along([Way(server, "http1") for server in (UVICORN, STARLETTE)])
async def test_a_client_that_reads_slowly(url: str) -> None:
    """It gets all of it, though that takes longer than a stall may."""
    with await connect(url) as client:
        await asyncio.get_running_loop().sock_sendall(client, REQUEST % (b"GET", SIZE))
        begun = time.monotonic()
        received = 0
        while data := await receive(client, 20_000):
            received += len(data)
            if time.monotonic() < begun + 3 * STALL:
                await asyncio.sleep(0.01)  # the pace of the client
        assert time.monotonic() > begun + 3 * STALL
        assert received > 4 * SIZE


@along([Way(server, "http1") for server in (UVICORN, HYPERCORN, GRANIAN)])
async def test_the_head_alone(url: str) -> None:
    """A HEAD request has no body to wait for."""
    with await connect(url) as client:
        await asyncio.get_running_loop().sock_sendall(client, REQUEST % (b"HEAD", SIZE))
        received = b""
        while data := await receive(client):
            received += data
        head, _, content = received.partition(b"\r\n\r\n")
        assert b"content-length: %d" % (4 * SIZE) in head.lower() and not content
