"""Clients of streams that leave behind a middleware, or read nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import EventSourceResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.routing import Route

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, FlowStream, flow_endpoint
from fastapi_aqueduct.asgi.streaming.formats import Pieces
from fastapi_aqueduct.asgi.streaming.primed import Primed
from fastapi_aqueduct.asgi.streaming.response import ItemResponse
from fastapi_aqueduct.engine.scheduling.outlet import Outlet
from fastapi_aqueduct.engine.wire.window import ITEM_WEIGHT, WINDOW

from ..handlers import Gate, notes
from ..support import DEADLINE, engine_of, eventually, forked
from .handlers import Tick, Ticks
from .support import serving

STALL_TIMEOUT = 0.2
"""Seconds in which a client must read something."""

FORMATS: dict[str, Any] = {"/events": EventSourceResponse, "/lines": None, "/pieces": StreamingResponse}
"""The class of response of each endpoint."""


def make_app(flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    async def ticks(task: Ticks, lines: FlowStream[str]) -> AsyncIterator[str]:
        async for line in lines:
            yield line

    for path, kind in FORMATS.items():
        app.get(path, **({} if kind is None else {"response_class": kind}))(flow_endpoint(flow, timeout_sec=60)(ticks))
    return app


def is_closed(directory: Path, name: str) -> bool:
    """Tell whether the generator of a stream was closed."""
    return notes(directory / f"{name}.closed") == ["closed"]


@pytest.mark.parametrize("at", [0, 3], ids=["before the first item", "between two items"])
async def test_a_client_that_leaves_behind_a_middleware(tmp_path: Path, at: int) -> None:
    """The generator of its stream is closed, whatever the format."""
    flow = forked(FlowStep(Tick(), concurrency=8))
    app = make_app(flow)

    @app.middleware("http")
    async def middleware(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    async with serving(app) as http:
        for path in FORMATS:
            name = path[1:]
            async with httpx.AsyncClient(base_url=http.base_url, verify=False) as client:
                request = asyncio.create_task(client.get(f"{path}?gate={tmp_path}&name={name}&at={at}"))
                await eventually(Gate(tmp_path, name).is_entered)
                request.cancel()
            await eventually(partial(is_closed, tmp_path, name))
        await eventually(lambda: flow.statistics().in_flight == 0)


@contextlib.contextmanager
def silent_client(http: httpx.AsyncClient, path: str) -> Any:
    """Send a request and read nothing of the answer, with a buffer that is small."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        client.connect((http.base_url.host, http.base_url.port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        yield client


def outlets(flow: Flow) -> list[Outlet]:
    """Return what the consumers of the open streams have not taken."""
    tickets = list(engine_of(flow).dispatcher._tickets.values())
    return [ticket.receiver for ticket in tickets if isinstance(ticket.receiver, Outlet)]


async def test_a_silent_client_beside_one_that_reads(tmp_path: Path) -> None:
    """Its stream pauses, with little in memory; that of the other goes on."""
    flow = forked(FlowStep(Tick(), concurrency=8))
    async with serving(make_app(flow)) as http:
        for path in FORMATS:
            silent = f"silent-{path[1:]}"
            query = f"{path}?gate={tmp_path}&pace=0&size=1000"
            with silent_client(http, f"{query}&name={silent}"):
                await eventually(lambda: [len(outlet) for outlet in outlets(flow)] > [100])
                async with asyncio.timeout(DEADLINE):
                    response = await http.get(f"{query}&name=reads&count=1000")
                assert re.findall(r" (\d+)", response.text) == [str(number) for number in range(1000)]
                (outlet,) = outlets(flow)
                assert len(outlet) <= WINDOW // ITEM_WEIGHT
            await eventually(partial(is_closed, tmp_path, silent))
        await eventually(lambda: flow.statistics().in_flight == 0)


@pytest.mark.parametrize("has_items", [True, False], ids=["silent client", "silent stream"])
async def test_the_stall_timeout(caplog: pytest.LogCaptureFixture, has_items: bool) -> None:
    """A client that reads nothing of what waits for it is given up; one that nothing waits for is not."""
    has_closed = asyncio.Event()

    async def values() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            while has_items:
                yield bytes(10_000)
            await asyncio.sleep(4 * STALL_TIMEOUT)
            yield b"last"
        finally:
            has_closed.set()

    async def endpoint(request: Request) -> ItemResponse:
        return ItemResponse(Primed(values(), None), Pieces(), stall_timeout=STALL_TIMEOUT)

    async with serving(Starlette(routes=[Route("/", endpoint)])) as http:
        if has_items:
            with caplog.at_level(logging.INFO), silent_client(http, "/"):
                await asyncio.wait_for(has_closed.wait(), DEADLINE)
            await eventually(lambda: "read nothing of its answer" in caplog.text)
            assert not any(record.exc_info for record in caplog.records)
        else:
            assert (await http.get("/")).content == b"firstlast"
