"""A client that goes away takes its task with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from starlette.types import Message

from fastapi_aqueduct import Aqueduct, flow_endpoint
from fastapi_aqueduct.asgi.disconnect import DisconnectWatch
from fastapi_aqueduct.asgi.streaming.formats import JSONLines, dump_any
from fastapi_aqueduct.asgi.streaming.primed import Primed
from fastapi_aqueduct.asgi.streaming.response import ItemResponse

from ..handlers import Gate
from ..support import blocks, eventually, forked
from .handlers import Add, HeldPicture, Hold
from .support import Connection, serving, taken, total_application


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("has_middleware", [False, True], ids=["plain", "middleware"])
async def test_while_the_task_is_in_the_flow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, http: Any, has_middleware: bool
) -> None:
    """It is cancelled, one that waits never runs, the memory is freed, and the log has no traceback."""
    flow = forked(Hold())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    gate = Gate(tmp_path, "first")

    @app.post("/hold")
    @flow_endpoint(flow, timeout_sec=30)
    async def hold(task: HeldPicture) -> str:
        return "through"

    if has_middleware:

        @app.middleware("http")
        async def middleware(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            return await call_next(request)

    async with serving(app, http) as server:
        first = asyncio.create_task(server.post(f"/hold?gate={tmp_path}&name=first", content=b"x"))
        await eventually(gate.is_entered)
        with caplog.at_level(logging.INFO):
            async with Connection(server) as connection:
                body = bytes(100_000)
                path = f"/hold?gate={tmp_path}&name=second"
                await connection.send(path, f"Content-Length: {len(body)}", body=body)
                await eventually(lambda: flow.statistics().in_flight == 2)
            await eventually(lambda: flow.statistics().cancelled == 1)
            await eventually(lambda: " 499: " in caplog.text)
        gate.open()
        assert (await first).json() == "through"
        await eventually(lambda: blocks(flow) == taken(flow) == 0)
    assert not any(record.exc_info for record in caplog.records)
    assert flow.statistics().in_flight == 0


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("is_form", [False, True], ids=["raw", "form"])
async def test_in_the_middle_of_the_upload(caplog: pytest.LogCaptureFixture, http: Any, is_form: bool) -> None:
    """The memory is freed, the flow never hears of it, and the log has no traceback."""
    flow = forked(Add())
    app = total_application(flow)

    async with serving(app, http) as server:
        with caplog.at_level(logging.INFO):
            async with Connection(server) as connection:
                content_type = "multipart/form-data; boundary=b" if is_form else "image/png"
                start = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc'
                await connection.send("/total", "Content-Length: 1000000", f"Content-Type: {content_type}", body=start)
                await eventually(lambda: taken(flow) > 0)
            await eventually(lambda: taken(flow) == 0)
            await eventually(lambda: " 499: " in caplog.text)
        assert (await server.post("/total", content=b"\1\2")).json() == 3
    assert not any(record.exc_info for record in caplog.records)


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    """The end of the server is not a client that has gone."""
    never: asyncio.Event = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await never.wait()
        raise AssertionError

    async def request() -> None:
        with DisconnectWatch(receive):
            await never.wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_there_is_no_watch_for_a_task_that_is_done_soon() -> None:
    """Listening costs more than such a task."""
    heard: list[str] = []
    has_heard, never = asyncio.Event(), asyncio.Event()

    async def receive(name: str) -> dict[str, Any]:
        heard.append(name)
        has_heard.set()
        await never.wait()
        raise AssertionError

    with DisconnectWatch(lambda: receive("soon")):
        pass
    with DisconnectWatch(lambda: receive("late")):
        await has_heard.wait()  # the other would have been heard with it or before
    assert heard == ["late"]


async def test_a_stream_is_watched_from_its_begin() -> None:
    """A client that leaves soon must not cost the work of the time until a watch is armed."""
    made = 0

    async def values() -> AsyncGenerator[int, None]:
        nonlocal made
        while True:
            made += 1
            yield made
            await asyncio.sleep(0)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    response = ItemResponse(Primed(values(), None), JSONLines(dump_any))
    await response({"type": "http", "method": "GET", "path": "/"}, receive, send)
    assert made < 50


async def test_an_error_of_receive_is_not_a_disconnect() -> None:
    """A server may enforce a limit on an unread body there."""
    has_failed, release = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        has_failed.set()
        raise RuntimeError("too much")

    with DisconnectWatch(receive):
        await has_failed.wait()
        asyncio.get_running_loop().call_soon(release.set)
        await release.wait()
