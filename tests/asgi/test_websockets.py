"""Streams to WebSockets, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, cancel_on_disconnect
from fastapi_aqueduct.asgi.websockets import READ_AHEAD, Inbox

from ..handlers import Gate, notes
from ..support import DEADLINE, eventually, forked
from .handlers import Tick, Ticks
from .support import serving

PAUSE = 0.1
"""Seconds in which something happens that should not, if it does."""


@contextlib.asynccontextmanager
async def connections(
    endpoint: Callable[[WebSocket], Awaitable[None]], flow: Flow | None = None
) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Serve a WebSocket endpoint; gives a function that connects a client to it, with a query."""
    lifespan = Aqueduct(flow).lifespan if flow else None
    app = Starlette(routes=[WebSocketRoute("/", endpoint)], lifespan=lifespan)
    async with serving(app, ws="wsproto") as http, aiohttp.ClientSession() as session:

        async def connect(query: str = "") -> aiohttp.ClientWebSocketResponse:
            timeout = aiohttp.ClientWSTimeout(ws_receive=DEADLINE)
            return await session.ws_connect(f"{http.base_url}?{query}", timeout=timeout)

        yield connect


@pytest.mark.parametrize("at", [0, -1], ids=["before the first item", "while items flow"])
async def test_clients_that_leave(tmp_path: Path, at: int) -> None:
    """Their tasks and the generators end, and one that stays gets all of its stream."""
    flow = forked(FlowStep(Tick(), concurrency=8))
    ends: dict[str, str] = {}

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        name = socket.query_params["name"]
        task = Ticks(tmp_path, name, at=at) if name != "stays" else Ticks(tmp_path, name, count=50)
        try:
            async with cancel_on_disconnect(socket):
                async for line in flow.stream(task, 60):
                    await socket.send_text(line)
                await socket.close()
            ends[name] = "whole"
        except WebSocketDisconnect:
            ends[name] = "left"

    async with connections(endpoint, flow) as connect:
        clients = {name: await connect(f"name={name}") for name in ("closes", "is lost", "stays")}
        for name in ("closes", "is lost"):
            if at == 0:
                await eventually(Gate(tmp_path, name).is_entered)
            else:
                await clients[name].receive()
        clients["is lost"]._response.connection.transport.abort()
        await clients["closes"].close()
        await eventually(lambda: all(notes(tmp_path / f"{name}.closed") for name in ("closes", "is lost")))
        assert [message.data async for message in clients["stays"]] == [f"{number}\n" for number in range(50)]
        assert clients["stays"].close_code == 1000
        await eventually(lambda: ends == {"closes": "left", "is lost": "left", "stays": "whole"})
        await eventually(lambda: flow.statistics().in_flight == 0)


def inbox_of(socket: WebSocket) -> Inbox:
    """Return what a watch reads into."""
    inbox = socket.receive.__self__  # type: ignore[attr-defined]
    assert isinstance(inbox, Inbox)
    return inbox


async def test_messages_are_kept() -> None:
    """What comes while the endpoint does not read is received later, in the context or after it, in order."""
    unread = 4

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        for _ in range(2):
            async with cancel_on_disconnect(socket):
                await eventually(lambda: len(inbox_of(socket)._messages) == unread)
                for _ in range(3):
                    await socket.send_text(await socket.receive_text())
            await socket.send_text(await socket.receive_text())
        assert "receive" not in vars(socket)
        await socket.close()

    async with connections(endpoint) as connect:
        client = await connect()
        for number in range(unread):
            await client.send_str(str(number))
        for number in range(unread):
            assert (await client.receive()).data == str(number)
        for number in range(unread):
            await client.send_str(str(number))
        assert [message.data async for message in client] == [str(number) for number in range(unread)]


async def test_a_client_that_sends_and_sends() -> None:
    """Its messages are kept up to a limit, and none is lost. It is seen to leave when some were received."""
    has_read = asyncio.Event()
    found: list[Any] = []
    count = 4 * READ_AHEAD // 1000

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        async with cancel_on_disconnect(socket):
            await eventually(lambda: not inbox_of(socket)._has_room.is_set())
            await asyncio.sleep(PAUSE)
            found.append(len(inbox_of(socket)._messages))
            for _ in range(count):
                found.append(await socket.receive_text())
            has_read.set()
            await asyncio.Event().wait()

    async with connections(endpoint) as connect:
        client = await connect()
        sending = asyncio.gather(*[client.send_str(f"{number:1000}") for number in range(count)])
        await sending
        await asyncio.wait_for(has_read.wait(), DEADLINE)
    assert 0 < found[0] <= READ_AHEAD // 1000
    assert found[1:] == [f"{number:1000}" for number in range(count)]


async def test_an_endpoint_that_reads_beside_the_stream(tmp_path: Path) -> None:
    """It gets each message at once, and may end the stream."""
    flow, task = forked(FlowStep(Tick(), concurrency=8)), Ticks(tmp_path)

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        async with cancel_on_disconnect(socket), flow.stream(task, 60) as stream:

            async def read() -> None:
                async for text in socket.iter_text():
                    if text == "stop":
                        await stream.aclose()
                        return

            reading = asyncio.create_task(read())
            await eventually(lambda: inbox_of(socket)._users == 2)  # the watch, and a call of `receive`
            async for line in stream:
                await socket.send_text(line)
            await reading
            await socket.close()

    async with connections(endpoint, flow) as connect:
        client = await connect()
        await client.receive()
        await client.send_str("go on")
        await client.send_str("stop")
        async for _ in client:
            pass
        assert client.close_code == 1000
        await eventually(lambda: notes(task.closed) == ["closed"])


async def test_other_ends_of_the_context() -> None:
    """A timeout is one, and an error of the endpoint stays what it is."""
    errors: list[str] = []

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        try:
            async with asyncio.timeout(PAUSE), cancel_on_disconnect(socket):
                await asyncio.Event().wait()
        except TimeoutError:
            errors.append("timeout")
        try:
            async with cancel_on_disconnect(socket):
                raise LookupError
        except LookupError:
            errors.append("error")
        await socket.close()

    async with connections(endpoint) as connect:
        client = await connect()
        async for _ in client:
            pass
    assert errors == ["timeout", "error"]
