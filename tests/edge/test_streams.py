"""Streams through every server: they arrive as they are made, and end with their clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from ..handlers import Gate, notes
from ..support import DEADLINE, eventually
from .clients import Client, Httpx
from .servers import GRANIAN, HYPERCORN, UVICORN, EdgeService
from .ways import PROXIED, Way, along

SERVERS = (UVICORN, HYPERCORN, GRANIAN)
DIRECT = [Way(server, "httpx") for server in SERVERS]
ENDPOINTS = ("events", "lines", "pieces")


@along([*DIRECT, *PROXIED])
async def test_items_arrive_as_they_are_made(client: Client, tmp_path: Path) -> None:
    """An event is there before the next one is made, behind a proxy that buffers, too."""
    async with client.open("GET", f"/events?gate={tmp_path}&count=3&at=1") as response:
        lines = response.aiter_lines()
        assert await anext(lines) == 'data: "0\\n"'
        Gate(tmp_path).open()
        assert [line async for line in lines if line] == ['data: "1\\n"', 'data: "2\\n"']


@along([*DIRECT, *PROXIED])
@pytest.mark.parametrize("at", [0, 3], ids=["before the first item", "between two items"])
async def test_a_client_that_leaves(way: Way, url: str, tmp_path: Path, service: EdgeService, at: int) -> None:
    """The generators of its streams are closed, whatever their format."""
    clients = [Httpx(url, tmp_path) for _ in ENDPOINTS]
    requests = []
    for client, endpoint in zip(clients, ENDPOINTS, strict=True):
        path = f"/{endpoint}?gate={tmp_path}&name={endpoint}&at={at}"
        requests.append(asyncio.create_task(client.send("GET", path)))
        await eventually(Gate(tmp_path, endpoint).is_entered)
    for client, request in zip(clients, requests, strict=True):
        request.cancel()
        await client.close()
    await eventually(lambda: all(notes(tmp_path / f"{endpoint}.closed") for endpoint in ENDPOINTS))
    await asyncio.wait(requests)
    await eventually(service.is_idle)


@along(DIRECT)
@pytest.mark.parametrize("at", [0, 3], ids=["before the first item", "between two items"])
async def test_a_socket_whose_client_leaves(url: str, tmp_path: Path, service: EdgeService, at: int) -> None:
    """hypercorn and granian do not tell an endpoint that only sends; the watch does."""
    closed = tmp_path / "gate.closed"
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(f"{url}/socket?gate={tmp_path}&name=gate&at={at}")
        await eventually(Gate(tmp_path).is_entered)
        closing = asyncio.create_task(socket.close())
        await eventually(lambda: notes(closed) == ["closed"])
        await asyncio.wait_for(closing, DEADLINE)
    await eventually(service.is_idle)
