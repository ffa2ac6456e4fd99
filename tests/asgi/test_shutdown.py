"""Requests whose bodies arrive, or whose tasks work, when the server ends: 503, and no error of the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from fastapi_aqueduct import Flow, flow_endpoint

from ..handlers import Gate
from ..support import DEADLINE, eventually, write_script
from .handlers import Count
from .json_handlers import Text
from .service import Service, launched
from .support import Connection, serving, total_application

SOURCE = """
    import asyncio
    from typing import Annotated

    from fastapi import Depends, FastAPI

    from fastapi_aqueduct import Aqueduct, Flow, FlowTask, flow_endpoint
    from tests.asgi.handlers import Held, HeldPicture, Hold
    from tests.asgi.json_handlers import Order, Text
    from tests.support import engine_of

    flow = Flow(Hold())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/arriving")
    async def arriving() -> int:
        return len(engine_of(flow).memory.arrivals)

    @app.post("/upload")
    @flow_endpoint(flow)
    async def upload(task: HeldPicture) -> None: ...

    @app.post("/dependency")
    async def dependency(task: Annotated[HeldPicture, FlowTask()]) -> None: ...

    @app.post("/json")
    @flow_endpoint(flow)
    async def short(task: Text) -> None: ...

    @app.post("/long")
    @flow_endpoint(flow)
    async def through_fastapi(task: Text, word: Annotated[str, Depends(lambda: "word")]) -> None: ...

    @app.post("/held")
    @flow_endpoint(flow, timeout_sec=60)
    async def held(task: Held) -> None: ...
"""

BODIES = {"/upload": "image/png", "/dependency": "image/png", "/json": "application/json", "/long": "application/json"}

UVICORN = ("uvicorn", "main:app", "--port={port}", "--timeout-graceful-shutdown=1")

long = pytest.mark.long


@asynccontextmanager
async def cut_off(directory: Path, module: tuple[str, ...]) -> AsyncIterator[tuple[Service, list[Connection]]]:
    """Run a server with a request of each kind that is not complete."""
    write_script(directory, SOURCE)
    with launched(directory, module) as (process, port):
        service = Service(directory, process, port)
        await eventually(lambda: service.probe() == 200)
        client = httpx.AsyncClient(base_url=service.url, verify=False, timeout=DEADLINE)
        async with client, AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(Connection(client)) for _ in (*BODIES, "/held")]
            query = f"?gate={directory}"
            for connection, (path, kind) in zip(connections, BODIES.items(), strict=False):
                await connection.send(path + query, f"Content-Type: {kind}", "Content-Length: 1000", body=b"{")
            await connections[-1].send("/held" + query, "Content-Length: 0")
            await eventually(Gate(directory).is_entered)
            while (await client.get("/arriving")).json() < len(BODIES):
                await asyncio.sleep(0.01)
            yield service, connections


@pytest.mark.parametrize(
    ("http", "is_repeated"),
    [("httptools", False), ("httptools", True), ("h11", False), pytest.param("h11", True, marks=long)],
)
async def test_uvicorn(tmp_path: Path, http: str, is_repeated: bool) -> None:
    """It stops waiting for them when its time is over, or at the second signal."""
    async with cut_off(tmp_path, (*UVICORN, f"--http={http}")) as (service, connections):
        service.process.terminate()
        if is_repeated:
            await eventually(lambda: service.probe() != 200)
            service.process.terminate()
        for connection in connections:
            head = await connection.read_head()
            assert " 503 " in head.splitlines()[0] and "retry-after: 1" in head.lower()
        await asyncio.to_thread(service.process.wait, DEADLINE)
    assert "Traceback" not in service.log() and "Exception" not in service.log()


@long
@pytest.mark.parametrize(
    "module",
    [
        ("hypercorn", "main:app", "--bind=127.0.0.1:{port}", "--workers=0", "--graceful-timeout=1"),
        ("granian", "main:app", "--interface=asgi", "--port={port}", "--workers-kill-timeout=2"),
    ],
    ids=["hypercorn", "granian"],
)
async def test_other_servers(tmp_path: Path, module: tuple[str, ...]) -> None:
    """They close the connections, or answer 503; neither is logged as an error."""
    async with cut_off(tmp_path, module) as (service, connections):
        service.process.terminate()
        for connection in connections:
            try:
                head = await connection.read_head()
            except (asyncio.IncompleteReadError, ConnectionError):
                continue
            assert " 503 " in head.splitlines()[0]
        await asyncio.to_thread(service.process.wait, DEADLINE)
    # The connections of hypercorn, which it cancels, are in its log; the application is not.
    assert "ASGI" not in service.log() and "fastapi_aqueduct" not in service.log()


async def test_a_flow_that_stops_alone() -> None:
    """Bodies that are still arriving are refused at once; their clients need not end them."""
    flow = Flow(Count())
    app = total_application(flow)

    @app.post("/text")
    @flow_endpoint(flow)
    async def text(task: Text) -> str:
        return task.text

    async with serving(app) as http, Connection(http) as one, Connection(http) as two:
        await one.send("/total", "Content-Length: 300000", body=b"x")
        await two.send("/text", "Content-Type: application/json", "Content-Length: 300000", body=b"{")
        await eventually(lambda: flow.statistics().arena.receiving == 2)
        await flow.stop()
        for connection in (one, two):
            assert " 503 " in (await connection.read_head()).splitlines()[0]


async def test_another_cancellation() -> None:
    """It goes on: a timeout around the endpoint is the application's."""
    flow = Flow(Count())
    app = total_application(flow)

    class Impatient:
        async def __call__(self, scope, receive, send):  # type: ignore[no-untyped-def]
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            try:
                async with asyncio.timeout(0.2):
                    await app(scope, receive, send)
            except TimeoutError:
                await send({"type": "http.response.start", "status": 418, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body"})

    async with serving(Impatient()) as http, Connection(http) as connection:
        await connection.send("/total", "Content-Length: 300000", body=b"x")
        assert " 418 " in (await connection.read_head()).splitlines()[0]
