"""Endpoints of flows on plain Starlette routes answer as any other."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Host, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_aqueduct import Aqueduct, Flow, SharedResponse, flow_endpoint
from fastapi_aqueduct.testing import client

from ..support import forked
from .json_handlers import Join, Text


class Trouble(Exception):
    """Something that the application has a handler for."""


class Answer(BaseModel):
    """What can be written as JSON."""

    text: str
    number: float


class Seal:
    """Middleware that adds a header to every response, and so sees whether there was one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def sealed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-seal", b"sealed")]
            await send(message)

        await self._app(scope, receive, sealed)


def make_endpoint(flow: Flow, directory: Path, notes: list[str]) -> Callable[..., Any]:
    """Make an endpoint that answers in the way that a request asks for."""
    (directory / "file").write_text("from a file")

    async def pieces() -> AsyncIterator[str]:
        yield "piece by "
        yield "piece"

    @flow_endpoint(flow)
    async def endpoint(request: Request, task: Text, kind: str) -> Any:
        if kind == "refusal":
            raise HTTPException(418, "a teapot", {"x-tea": "none"})
        if kind == "trouble":
            raise Trouble(task.text)
        if kind == "error":
            raise RuntimeError("broken")
        if kind == "missing":
            return FileResponse(directory / "nowhere")
        if kind == "body":
            return PlainTextResponse(await request.body())
        return {
            "dict": {"text": task.text, "number": float("nan")},
            "model": Answer(text=task.text, number=1),
            "none": None,
            "response": Response(task.text, 202, {"x-word": "mine"}, "text/x-word"),
            "json": JSONResponse([task.text]),
            "background": PlainTextResponse("at once", background=BackgroundTask(notes.append, task.text)),
            "late trouble": PlainTextResponse("at once", background=BackgroundTask(fail)),
            "file": FileResponse(directory / "file"),
            "pieces": StreamingResponse(pieces()),
            "shared": SharedResponse(b"shared"),
            "application": Seal(PlainTextResponse("sealed")),
        }[kind]

    return endpoint


KINDS = (
    "refusal trouble error missing body dict model none response json background file pieces shared application".split()
)


async def fail() -> None:
    raise Trouble("late")


async def tell(_: Request, exc: Exception) -> Response:
    return PlainTextResponse(f"trouble: {exc}", 409)


def make_app(flow: Flow, routes: list[BaseRoute]) -> Starlette:
    return Starlette(routes=routes, exception_handlers={Trouble: tell}, lifespan=Aqueduct(flow).lifespan)


async def ask(http: httpx2.AsyncClient, path: str, kind: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return all of an answer that does not depend on time."""
    response = await http.post(path, params={"kind": kind}, json={"words": ["a", "b"]})
    headers = [(name, value) for name, value in response.headers.multi_items() if name != "server-timing"]
    return response.status_code, headers, response.content


async def test_every_answer_is_the_same(tmp_path: Path) -> None:
    """For every kind of function; also inside of a mount whose middleware needs a response."""
    flow, notes = forked(Join()), list[str]()
    endpoint = make_endpoint(flow, tmp_path, notes)

    async def own(request: Request) -> Any:
        return await endpoint(request)

    routes = [Route("/ours", endpoint, methods=["POST"]), Route("/own", own, methods=["POST"])]
    app = make_app(flow, [*routes, Mount("/in", routes=list(routes), middleware=[Middleware(Seal)])])
    async with client(app, raise_app_exceptions=False) as http:
        for prefix in ("", "/in"):
            found = {kind: await ask(http, prefix + "/ours", kind) for kind in KINDS}
            assert found == {kind: await ask(http, prefix + "/own", kind) for kind in KINDS}
            assert [found[kind][0] for kind in ("refusal", "trouble", "error", "missing")] == [418, 409, 500, 500]
            assert found["trouble"][2] == b"trouble: a b"
            assert found["dict"][2] == b'{"text":"a b","number":null}'
            assert (found["none"][2], found["application"][2]) == (b"null", b"sealed")
            assert found["body"][2] == b'{"words":["a","b"]}'
            sealed = ("x-seal", "sealed")
            assert (sealed in found["trouble"][1]) == (sealed in found["response"][1]) == (prefix == "/in")
    assert notes == ["a b"] * 4


async def test_what_is_around_an_endpoint(tmp_path: Path) -> None:
    """Middleware, a limit, a decorator and a host change nothing."""
    flow = forked(Join())
    endpoint = make_endpoint(flow, tmp_path, [])

    async def observed(request: Request) -> Any:
        return await endpoint(request)

    observed.__dict__.update(endpoint.__dict__)  # as functools.wraps does
    hosted = Route("/hosted", endpoint, methods=["POST"])
    others = [
        Route("/middleware", endpoint, methods=["POST"], middleware=[Middleware(Seal)]),
        Route("/limit", endpoint, methods=["POST"], max_body_size=1000),
        Route("/observed", observed, methods=["POST"]),
    ]
    app = make_app(flow, [*others, Host("testserver", Starlette(routes=[hosted]))])
    async with client(app) as http:
        for _ in range(2):
            for route in [*others, hosted]:
                assert (await ask(http, route.path, "dict"))[2] == b'{"text":"a b","number":null}'
        large = await http.post("/limit?kind=dict", json={"words": ["a"] * 1000})
        assert large.status_code == 413


async def test_trouble_after_the_answer(tmp_path: Path) -> None:
    """It raises Starlette's error: the client already has an answer."""
    flow = forked(Join())
    route = Route("/ours", make_endpoint(flow, tmp_path, []), methods=["POST"])
    async with client(make_app(flow, [route])) as http:
        with pytest.raises(RuntimeError, match="already started") as caught:
            await ask(http, "/ours", "late trouble")
    assert isinstance(caught.value.__cause__, Trouble)


async def test_an_error_keeps_nothing(tmp_path: Path) -> None:
    """An unhandled exception refers to the frames it passed, and none of them back to it."""
    flow = forked(Join())
    route = Route("/ours", make_endpoint(flow, tmp_path, []), methods=["POST"])
    async with client(make_app(flow, [route]), raise_app_exceptions=False) as http:
        for kind, status in ("error", 500), ("missing", 500), ("trouble", 409):
            assert (await ask(http, "/ours", kind))[0] == status  # what is made once is there then
            gc.collect()
            gc.disable()
            try:
                assert (await ask(http, "/ours", kind))[0] == status
                assert not [kept for kept in gc.get_objects() if type(kept) is Text]
            finally:
                gc.enable()
