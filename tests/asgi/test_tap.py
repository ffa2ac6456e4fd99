"""Under uvicorn a body is taken where the parser leaves it; anywhere else it comes in messages."""

from __future__ import annotations

import gzip
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, flow_endpoint
from fastapi_aqueduct.asgi.uvicorn import Tap
from fastapi_aqueduct.testing import client

from ..support import blocks, eventually, forked
from .handlers import Add, Picture
from .support import Connection, serving, taken

MIB = 1 << 20


def make_app(flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/fits")
    async def fits(request: Request) -> bool:
        return Tap.fits(request)

    @app.post("/read")
    async def read(request: Request) -> bool:
        await request.body()
        return Tap.fits(request)

    @app.post("/total")
    @flow_endpoint(flow, timeout_sec=30, accept_gzip=True)
    async def total(task: Picture, request: Request) -> int:
        with pytest.raises(RuntimeError):  # as with any body that was streamed
            await request.body()
        return task.total

    return app


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_it_fits_the_installed_uvicorn(http: Any) -> None:
    """If a new uvicorn keeps bodies elsewhere, uploads still work, but slower: this is where it is noticed."""
    async with serving(make_app(forked(FlowStep(Add()))), http) as server:
        assert (await server.post("/fits", content=b"x")).json() is True
        assert (await server.post("/read", content=b"x")).json() is False


async def test_it_fits_no_other_way_in() -> None:
    """Neither without a server nor under a middleware that wraps `receive`."""
    async with client(make_app(forked(FlowStep(Add())))) as http:
        assert (await http.post("/fits", content=b"x")).json() is False
    app = make_app(forked(FlowStep(Add())))

    @app.middleware("http")
    async def wrap(request: Request, call_next: Any) -> Response:
        answer: Response = await call_next(request)
        return answer

    async with serving(app) as server:
        assert (await server.post("/fits", content=b"x")).json() is False
        assert (await server.post("/total", content=bytes([1]) * MIB)).json() == MIB


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_the_connection_is_good_for_the_next_request(http: Any) -> None:
    """Whatever the server collects after the tap is gone lies in a buffer of its own again."""
    flow = forked(FlowStep(Add()))
    async with serving(make_app(flow), http) as server, Connection(server) as connection:
        for _ in range(2):
            await connection.send("/total", f"Content-Length: {MIB}", body=bytes([1]) * (MIB // 2))
            await connection.send_more(bytes([1]) * (MIB // 2))
            assert (await connection.read_head()).startswith("HTTP/1.1 200")
            await connection.read_body(len(str(MIB)))
        await connection.send("/read", "Content-Length: 4", body=b"more")
        assert (await connection.read_head()).startswith("HTTP/1.1 200")
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_a_compressed_body_that_comes_faster_than_it_is_read(http: Any) -> None:
    """Each piece is decompressed in turns of its own; what comes meanwhile waits in the server's buffer."""
    content = random.Random(1).randbytes(200_000) + bytes(2 * MIB)
    packed = gzip.compress(content, 1)

    async def pieces() -> AsyncIterator[bytes]:
        at = 0
        while at < len(packed):
            for size in (1, 5_000, 100, 20_000, 10_000):
                yield packed[at : at + size]
                at += size

    flow = forked(FlowStep(Add()))
    async with serving(make_app(flow), http) as server:
        for _ in range(2):
            answer = await server.post("/total", content=pieces(), headers={"content-encoding": "gzip"})
            assert answer.json() == sum(content)
        await eventually(lambda: blocks(flow) == taken(flow) == 0)
