"""The client that users test their applications with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.requests import Request as StarletteRequest
from starlette.types import Receive, Scope, Send

from fastapi_aqueduct import Aqueduct
from fastapi_aqueduct.testing import client

from ..support import forked
from .handlers import Adder


async def test_the_state_of_the_lifespan_reaches_requests() -> None:
    """Each request has a copy, as under a server."""
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        events.append("start")
        yield {"number": 1}
        events.append("stop")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def answer(request: Request) -> int:
        request.state.number += 1
        number: int = request.state.number
        return number

    async with client(app) as http:
        assert [(await http.get("/")).json() for _ in range(2)] == [2, 2]
        assert events == ["start"]
    assert events == ["start", "stop"]


async def test_the_body_arrives_in_the_pieces_it_was_sent_in() -> None:
    """Not joined, as Starlette's client does."""
    sizes: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        sizes.extend([len(chunk) async for chunk in StarletteRequest(scope, receive).stream() if chunk])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def body() -> AsyncIterator[bytes]:
        for size in (1, 20, 300):
            yield bytes(size)

    async with client(app) as http:
        await http.post("/", content=body())
    assert sizes == [1, 20, 300]


async def test_errors_of_the_start_the_requests_and_the_end_are_raised() -> None:
    """As themselves, in the test."""
    at = "start"

    def fail(place: str) -> None:
        if place == at:
            raise ValueError(place)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        fail("start")
        yield
        fail("end")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def answer() -> None:
        fail("request")

    for at in ("start", "request", "end"):
        with pytest.raises(ValueError, match=at):
            async with client(app) as http:
                await http.get("/")
    at = "request"
    async with client(app, raise_app_exceptions=False) as http:
        assert (await http.get("/")).status_code == 500


async def test_a_test_that_fails_stops_the_application() -> None:
    """And its own error is the one that is seen."""
    flow = forked(Adder())
    with pytest.raises(ZeroDivisionError):
        async with client(FastAPI(lifespan=Aqueduct(flow).lifespan)):
            assert flow.is_running
            raise ZeroDivisionError
    assert not flow.is_running
