"""Endpoints without `flow_endpoint` that stream: plain Starlette routes, and those that stream only on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.responses import EventSourceResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, InvalidArgument, stream_response
from fastapi_aqueduct.testing import client

from ..handlers import Gate, notes
from ..support import eventually, forked
from .handlers import Tick, Ticks
from .support import serving

CLASSES: dict[str, Any] = {"events": EventSourceResponse, "pieces": StreamingResponse, "lines": None}

BODIES = {
    "events": b'data: {"line":"0\\n"}\n\ndata: {"line":"1\\n"}\n\n',
    "pieces": b"0\n1\n",
    "lines": b'{"line":"0\\n"}\n{"line":"1\\n"}\n',
}


def make_app(flow: Flow, directory: Path) -> Starlette:
    """Make an application with a plain route: the query says what is streamed, and how."""

    async def generate(request: Request) -> Response:
        query = request.query_params
        task = Ticks(directory, query["kind"], int(query.get("count", 10**9)), int(query.get("at", -1)))
        if query["kind"] == "none":
            await flow.process(task)
            return JSONResponse("done")
        stream = flow.stream(task, float(query.get("timeout", 60)))

        if query["kind"] == "starlette":
            return StreamingResponse(stream)

        async def values() -> AsyncIterator[Any]:
            async for line in stream:
                yield {"line": line}

        items = stream if query["kind"] == "pieces" else values()
        response = await stream_response(request, items, CLASSES[query["kind"]])
        response.headers["x-kind"] = query["kind"]
        response.status_code = 201
        return response

    return Starlette(routes=[Route("/", generate)], lifespan=Aqueduct(flow).lifespan)


async def test_plain_routes(tmp_path: Path) -> None:
    """They stream in each format, and what fails before the first value has a status of its own."""
    flow = forked(FlowStep(Tick(), concurrency=8))
    async with client(make_app(flow, tmp_path)) as http:
        for kind, body in BODIES.items():
            response = await http.get(f"/?kind={kind}&count=2")
            assert (response.status_code, response.headers["x-kind"], response.content) == (201, kind, body)
            assert (await http.get(f"/?kind={kind}&count=0")).content == b""
            assert (await http.get(f"/?kind={kind}&at=0&timeout=0.05")).status_code == 504
        assert (await http.get("/?kind=none&count=2")).json() == "done"
        flow.end_streams()
        refused = await http.get("/?kind=events")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def is_closed(directory: Path, name: str) -> bool:
    """Tell whether the generator of a stream was closed."""
    return notes(directory / f"{name}.closed") == ["closed"]


@pytest.mark.parametrize("at", [0, 3], ids=["before the first item", "between two items"])
async def test_a_client_that_leaves(tmp_path: Path, at: int) -> None:
    """The generator of its stream is closed, also with Starlette's own response."""
    flow = forked(FlowStep(Tick(), concurrency=8))
    async with serving(make_app(flow, tmp_path)) as http:
        for kind in (*CLASSES, "starlette"):
            async with httpx.AsyncClient(base_url=http.base_url, verify=False) as leaving:
                request = asyncio.create_task(leaving.get(f"/?kind={kind}&at={at}"))
                await eventually(Gate(tmp_path, kind).is_entered)
                request.cancel()
            await eventually(partial(is_closed, tmp_path, kind))
        await eventually(lambda: flow.statistics().in_flight == 0)


async def test_an_iterator_that_cannot_be_closed(tmp_path: Path) -> None:
    class Words:
        def __init__(self) -> None:
            self._words = iter(("one", "two"))

        def __aiter__(self) -> Words:
            return self

        async def __anext__(self) -> str:
            for word in self._words:
                return word
            raise StopAsyncIteration

    async def words(request: Request) -> Response:
        return await stream_response(request, Words())

    async with client(Starlette(routes=[Route("/", words)])) as http:
        assert (await http.get("/")).content == b'"one"\n"two"\n'


async def test_another_class_of_response() -> None:
    async def nothing() -> AsyncIterator[str]:
        yield ""

    with pytest.raises(InvalidArgument, match="must be one of EventSourceResponse, StreamingResponse, None"):
        await stream_response(Request({"type": "http"}), nothing(), JSONResponse)
