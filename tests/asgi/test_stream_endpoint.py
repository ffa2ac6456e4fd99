"""Endpoints with a stream: what a client sees of the items of a task."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import EventSourceResponse, StreamingResponse
from fastapi.security import APIKeyQuery
from pydantic import BaseModel
from starlette.types import ASGIApp

from fastapi_aqueduct import Aqueduct, ConfigurationError, Flow, FlowStep, FlowStream, InvalidArgument, flow_endpoint

from ..handlers import Gate, Yielding, notes
from ..support import blocks, eventually, pids
from .handlers import Speech, speak
from .support import serving


class Word(BaseModel):
    """What a client gets for each item."""

    text: str


FORMATS: dict[str, Any] = {"/events": EventSourceResponse, "/lines": None, "/pieces": StreamingResponse}
"""The class of response of each endpoint of `make_app`."""

every_format = pytest.mark.parametrize("path", FORMATS)


async def refuse_without_key(key: Annotated[str, Depends(APIKeyQuery(name="key"))]) -> None:
    """Refuse all keys but one."""
    if key != "open":
        raise HTTPException(403)


WAYS: dict[str, dict[str, Any]] = {
    "alone": {},
    "with a dependency": {"dependencies": [Depends(refuse_without_key)]},
    "by FastAPI": {"dependencies": [Depends(refuse_without_key)], "response_model_exclude_none": True},
}
"""Options of the routes, which decide what answers: without FastAPI's handler, after it, or the handler itself."""

every_way = pytest.mark.parametrize("way", WAYS)


def make_app(flow: Flow, way: str = "alone", **limits: Any) -> FastAPI:
    """Make an application with a streaming endpoint for each format."""
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    async def words(task: Speech, items: FlowStream[str], shout: bool = False) -> AsyncIterator[Word]:
        async for text in items:
            yield Word(text=text.upper() if shout else text)

    async def pieces(task: Speech, items: FlowStream[str], shout: bool = False) -> AsyncIterator[str]:
        async for text in items:
            yield f"{text.upper() if shout else text};"

    for path, kind in FORMATS.items():
        options = WAYS[way] if kind is None else {**WAYS[way], "response_class": kind}
        function = pieces if kind is StreamingResponse else words
        app.post(path, **options)(flow_endpoint(flow, **limits)(function))
    return app


def make_flow(**options: Any) -> Flow:
    """Make a flow that speaks."""
    return Flow(FlowStep(Yielding(speak), max_retries=0, concurrency=8, **options))


@contextlib.asynccontextmanager
async def served(app: ASGIApp, flow: Flow) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application; at the end no block of shared memory may be held."""
    async with serving(app) as http:
        yield http
        await eventually(lambda: blocks(flow) == 0)


def body_of(path: str, texts: list[str]) -> bytes:
    """Return the body of a complete response."""
    if path == "/pieces":
        return "".join(f"{text};" for text in texts).encode()
    lines = [json.dumps({"text": text}, separators=(",", ":")) for text in texts]
    return "".join(f"{line}\n" if path == "/lines" else f"data: {line}\n\n" for line in lines).encode()


def words(count: int) -> list[str]:
    """Return the first words of every speech."""
    return [f"word {number}" for number in range(count)]


async def cut_body(http: httpx.AsyncClient, path: str, **params: Any) -> bytes:
    """Return what comes of a body before the server cuts the connection, which it must do."""
    body = b""
    with pytest.raises(httpx.RemoteProtocolError):
        async with http.stream("POST", path, params=params) as response:
            assert response.status_code == 200
            async for chunk in response.aiter_raw():
                body += chunk
    return body


async def read(http: httpx.AsyncClient, path: str, params: dict[str, Any]) -> None:
    """Read a body to its end."""
    async with http.stream("POST", path, params=params) as response:
        async for _ in response.aiter_raw():
            pass


@every_way
async def test_items_come_in_the_format_of_the_response_class(way: str, tmp_path: Path) -> None:
    flow = make_flow()
    async with served(make_app(flow, way), flow) as http:
        for path in FORMATS:
            for count in (0, 1, 200):
                params = {"directory": str(tmp_path), "count": count, "key": "open"}
                response = await http.post(path, params=params)
                assert (response.status_code, response.content) == (200, body_of(path, words(count)))
        response = await http.post("/events", params={"directory": str(tmp_path), "key": "open", "shout": True})
        assert b"WORD 0" in response.content
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert (await http.post("/lines", params=params)).headers["content-type"] == "application/jsonl"


@every_way
async def test_failures_before_the_first_value_have_a_status(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flow = make_flow()
    async with served(make_app(flow, way, timeout_sec=0.4), flow) as http:
        for path in FORMATS:
            params = {"directory": str(tmp_path), "key": "open"}
            assert (await http.post(path, params={**params, "act": "raise"})).status_code == 500
            assert (await http.post(path, params={**params, "act": "die"})).status_code == 503
            await eventually(lambda: pids(flow))
            assert (await http.post(path, params={**params, "act": "gate"})).status_code == 504
            Gate(tmp_path).open()
            await eventually(lambda: notes(tmp_path / "notes").count("closed") == 2)
            for file in tmp_path.iterdir():
                file.unlink()


@pytest.mark.parametrize("path", ["/lines", "/pieces"])
@every_way
async def test_a_failure_later_cuts_the_connection_after_all_items(way: str, path: str, tmp_path: Path) -> None:
    flow = make_flow()
    async with served(make_app(flow, way), flow) as http:
        params = {"directory": str(tmp_path), "key": "open"}
        assert await cut_body(http, path, **params, act="raise", at=2) == body_of(path, words(2))
        assert await cut_body(http, path, **params, count=200, act="raise", at=200) == body_of(path, words(200))


async def test_a_request_that_is_refused_calls_no_handler(tmp_path: Path) -> None:
    """Neither does one with an invalid parameter of the endpoint, nor one that a dependency of the router refuses."""
    flow = make_flow()
    async with served(make_app(flow, "with a dependency"), flow) as http:
        for path in FORMATS:
            params = {"directory": str(tmp_path)}
            assert (await http.post(path, params=params)).status_code == 401
            assert (await http.post(path, params={**params, "key": "wrong"})).status_code == 403
            assert (await http.post(path, params={**params, "key": "open", "count": -1})).status_code == 422
            assert (await http.post(path, params={**params, "key": "open", "shout": "loud"})).status_code == 422
        assert notes(tmp_path / "notes") == []
        assert flow.statistics().in_flight == flow.statistics().completed == 0


@every_format
@every_way
async def test_a_client_that_leaves_ends_the_task(way: str, path: str, tmp_path: Path) -> None:
    """Before the first item, and between two."""
    flow = make_flow()
    async with served(make_app(flow, way, timeout_sec=20), flow) as http:
        for at in (0, 2):
            directory = tmp_path / str(at)
            directory.mkdir()
            params = {"directory": str(directory), "key": "open", "count": 5, "act": "gate", "at": at}
            request = asyncio.create_task(read(http, path, params))
            await eventually(Gate(directory).is_entered)
            request.cancel()
            await asyncio.wait([request])
            await eventually(lambda: flow.statistics().in_flight == 0)
            Gate(directory).open()
            await eventually(lambda: notes(directory / "notes") == ["called", "closed"])  # noqa: B023


async def test_a_function_may_collect_the_items(tmp_path: Path) -> None:
    flow = make_flow()
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/collect")
    @flow_endpoint(flow)
    async def collect(task: Speech, items: FlowStream[str]) -> list[str | int]:
        return [*[text async for text in items], task.total]

    async with served(app, flow) as http:
        response = await http.post("/collect", params={"directory": str(tmp_path)})
        assert response.json() == [*words(3), 3]
        params: dict[str, Any] = {"directory": str(tmp_path), "act": "die", "at": 1}
        assert (await http.post("/collect", params=params)).status_code == 503


# What cannot work is refused where it is written


async def two(task: Speech, one: FlowStream[str], other: FlowStream[str]) -> AsyncIterator[str]:
    async for text in one:
        yield text


def threaded(task: Speech, items: FlowStream[str]) -> list[str]:
    return []


def generator(task: Speech, items: FlowStream[str]) -> Any:
    yield ""


async def finished(task: Speech) -> int:
    return 0


async def streamed(task: Speech, items: FlowStream[str]) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("function", "limits", "words"),
    [
        (two, {}, "several streams .one, other."),
        (threaded, {}, "async for ... in items"),
        (generator, {}, "async for ... in items"),
        (finished, {"item_timeout": 1.0}, "are for streams"),
        (streamed, {"total_timeout": 0.0}, "total_timeout must be a positive number"),
    ],
)
def test_declarations_that_cannot_work(function: Callable[..., Any], limits: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        flow_endpoint(make_flow(), **limits)(function)
    assert issubclass(InvalidArgument, ConfigurationError)
