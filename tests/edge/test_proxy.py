"""What changes behind nginx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx

from ..support import DEADLINE, eventually
from .clients import Client
from .servers import EdgeService
from .test_bodies import PNG
from .ways import PROXIED, WIRE_STREAMED, Way, along

PIECE = bytes(100_000)


@along(PROXIED)
async def test_when_a_body_is_passed_on(way: Way, client: Client, service: EdgeService) -> None:
    """As it comes, or, which is the default, when all of it lies in a file of the proxy."""

    async def body() -> AsyncIterator[bytes]:
        yield PIECE
        if way.is_buffered:
            assert not service.figures()["receiving"]
        else:
            await eventually(lambda: service.figures()["receiving"])
        yield PIECE

    response = await client.post("/inspect", body(), PNG)
    assert response.json()["size"] == 2 * len(PIECE)


@along(WIRE_STREAMED[:1])
async def test_slow_headers(url: str, service: EdgeService) -> None:
    """The proxy does not wait for them; the application never hears of the client."""
    where = httpx.URL(url)
    reader, writer = await asyncio.open_connection(where.host, where.port)
    writer.write(b"POST /unfinished HTTP/1.1\r\nHost: test\r\nContent-Le")
    assert b"HTTP/1.1 200" not in await asyncio.wait_for(reader.read(), DEADLINE)
    writer.close()
    await writer.wait_closed()
    assert "/unfinished" not in service.log()
