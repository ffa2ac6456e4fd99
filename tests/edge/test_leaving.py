"""Clients that leave, in every state of a request: nothing is left behind, and nothing is in the log."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from ..handlers import Gate
from ..support import eventually
from .clients import Client, Httpx
from .servers import EdgeService
from .test_bodies import PNG
from .ways import Way, every_way

BODY = bytes(300_000)


class Stuck:
    """A body that never ends."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()

    def __aiter__(self) -> Stuck:
        return self

    async def __anext__(self) -> bytes:
        if self.has_begun.is_set():
            await asyncio.Event().wait()
        self.has_begun.set()
        return BODY


async def leave(client: Client, request: asyncio.Task[object]) -> None:
    """Give up a request, and go."""
    request.cancel()
    await asyncio.wait([request])
    # HTTP/2 has one connection for all requests, and httpx does not tell the server that it has given one up.
    await client.close()


@every_way
async def test_while_it_uploads(way: Way, client: Client, service: EdgeService) -> None:
    body = Stuck()
    request = asyncio.create_task(client.post("/inspect", body, PNG))
    await body.has_begun.wait()
    if not way.is_buffered:
        await eventually(lambda: service.figures()["receiving"])
    # Behind a proxy that buffers the application never hears of it.
    await leave(client, request)
    await eventually(service.is_idle)


async def call_slowly(client: Client, directory: Path) -> None:
    """Make a call of 50 ms: a worker whose calls take less than a millisecond gets the next task ahead."""
    gate = Gate(directory, "slow")
    held = asyncio.create_task(client.send("GET", f"/wait?gate={directory}&name=slow"))
    await eventually(gate.is_entered)
    entered_at = time.monotonic()
    await eventually(lambda: time.monotonic() - entered_at >= 0.05)
    gate.open()
    await held


@every_way
async def test_while_the_task_is_queued(client: Client, service: EdgeService, tmp_path: Path) -> None:
    """It never runs."""
    first, second = Gate(tmp_path, "first"), Gate(tmp_path, "second")
    other = Httpx(service.url, tmp_path)
    await call_slowly(other, tmp_path)
    held = asyncio.create_task(other.send("GET", f"/wait?gate={tmp_path}&name=first"))
    try:
        await eventually(first.is_entered)
        cancelled = service.figures()["cancelled"]
        request = asyncio.create_task(client.post(f"/hold?gate={tmp_path}&name=second", BODY, PNG))
        await eventually(lambda: service.figures()["queued"] == 1)
        await leave(client, request)
        await eventually(lambda: service.figures()["cancelled"] == cancelled + 1)
    finally:
        first.open()
        second.open()
        assert (await held).json() == "through"
        await other.close()
    await eventually(service.is_idle)
    assert not second.is_entered()


@every_way
async def test_while_a_worker_has_it(client: Client, service: EdgeService, tmp_path: Path) -> None:
    """Its result is dropped."""
    gate = Gate(tmp_path)
    before = service.figures()
    request = asyncio.create_task(client.post(f"/hold?gate={tmp_path}", BODY, PNG))
    try:
        await eventually(gate.is_entered)
        await leave(client, request)
        await eventually(lambda: service.figures()["cancelled"] == before["cancelled"] + 1)
    finally:
        gate.open()
    await eventually(service.is_idle)
    assert service.figures()["completed"] == before["completed"]


@every_way
async def test_while_the_answer_is_sent(way: Way, client: Client, service: EdgeService) -> None:
    """Memory that the client does not read is held while the client is connected, and released when it leaves."""
    async with client.open("GET", "/pixels?size=8000000") as response:
        assert response.status_code == 200
        if not way.is_buffered:
            assert service.figures()["blocks"] == 1
        await client.close()
    await eventually(service.is_idle)
