"""The fast path gives the same answers as FastAPI's own handler."""

from __future__ import annotations

import functools
import itertools
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import fastapi
import httpx
import httpx2
import pytest
import starlette
from fastapi import (
    APIRouter,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    datastructures,
    routing,
    utils,
)
from fastapi.dependencies import utils as dependency_utils
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.telemetry import get_telemetry_data
from opentelemetry import trace
from pydantic import BaseModel, field_validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_aqueduct import Aqueduct, Flow, flow_endpoint
from fastapi_aqueduct.asgi.endpoints.fast_path import _PASSED, FastPath
from fastapi_aqueduct.testing import client

from ..support import DEADLINE, forked, script_environment
from .handlers import Add
from .json_handlers import Join, Text
from .support import bare_client, total_application


class Answer(BaseModel):
    """What a client sees."""

    text: str
    note: str | None = None

    @field_validator("text")
    @classmethod
    def refuse_nonsense(cls, text: str) -> str:
        """Refuse one word."""
        if text == "nonsense":
            raise ValueError("nonsense")
        return text


class Quoted(JSONResponse):
    """A class of response of the user's own."""

    media_type = "application/quoted+json"

    def render(self, content: Any) -> bytes:
        """Write JSON in quotes."""
        return b"<%b>" % super().render(content)


class PlainRoute(APIRoute):
    """A class of route of the user's own."""


def make_router(flow: Flow) -> APIRouter:
    """Declare endpoints of every kind that is eligible for the fast path."""
    router = APIRouter()

    @router.post("/join")
    @flow_endpoint(flow)
    async def join(task: Text) -> Answer:
        if task.text == "teapot":
            raise HTTPException(418, "a teapot", {"x-tea": "none"})
        if task.text == "error":
            raise RuntimeError("broken")
        return Answer.model_construct(text=task.text)

    @router.put("/items/{item}", status_code=201, response_model_exclude_none=True)
    @flow_endpoint(flow)
    async def items(
        task: Text,
        request: Request,
        item: Annotated[int, Path(le=9)],
        page: Annotated[list[int], Query()],
        limit: int = 3,
        x_user: Annotated[str | None, Header()] = None,
        session: Annotated[str | None, Cookie()] = None,
    ) -> Answer:
        return Answer(text=f"{task.text} {item} {page} {limit} {x_user} {session} {request.url.path}")

    @router.post("/response")
    @flow_endpoint(flow)
    async def response(task: Text) -> Any:
        return PlainTextResponse(task.text, 202)

    @router.post("/bare")
    @flow_endpoint(flow)
    async def bare(task: Text):  # type: ignore[no-untyped-def]  # as endpoints are written most often
        if task.text == "model":
            return Answer.model_construct(text=task.text)
        if task.text == "unknown":
            return object()
        return {"text": task.text, "numbers": (1, 2), "bad": float("nan") if task.text == "a a" else None}

    @router.post("/unchecked", response_model=None, status_code=203)
    @flow_endpoint(flow)
    async def unchecked(task: Text) -> Answer:
        return Answer.model_construct(text=task.text)

    @router.post("/made")
    @flow_endpoint(flow)
    async def made(task: Text) -> Response:
        return StreamingResponse(iter([task.text]), 206, {"x-made": "yes"})

    @router.post("/class", response_class=Quoted, status_code=201)
    @flow_endpoint(flow)
    async def response_class(task: Text) -> Answer:
        return Answer.model_construct(text=task.text)

    @router.post("/elsewhere", response_class=RedirectResponse)
    @flow_endpoint(flow)
    async def elsewhere(task: Text) -> str:
        return f"/{task.text}"

    @router.post("/any")
    @flow_endpoint(flow)
    def anything(task: Text) -> Any:
        return {"text": task.text, "numbers": {1, 2}}

    return router


def make_others(flow: Flow) -> APIRouter:
    """Declare endpoints that have something that only FastAPI does."""
    router = APIRouter()

    @router.post("/dependency")
    @flow_endpoint(flow)
    async def dependency(task: Text, word: Annotated[str, Depends(lambda: "word")]) -> Answer:
        return Answer(text=task.text + word)

    @router.post("/embedded")
    @flow_endpoint(flow)
    async def embedded(task: Text, more: Annotated[int, Body()]) -> Answer:
        return Answer(text=f"{task.text} {more}")

    @router.post("/cookie")
    @flow_endpoint(flow)
    async def cookie(task: Text, response: Response) -> Answer:
        response.set_cookie("a", "b")
        return Answer(text=task.text)

    @router.post("/empty", status_code=204)
    @flow_endpoint(flow)
    async def empty(task: Text) -> None:
        pass

    return router


def fast_paths(app: FastAPI) -> set[str | None]:
    """Return the paths of the routes that are on the fast path."""
    found = set()
    for context in iter_route_contexts(app.routes):
        inner = getattr(context._effective_route, "app", None)
        parts = [inner, *(cell.cell_contents for cell in getattr(inner, "__closure__", None) or ())]
        if any(isinstance(part, FastPath) for part in parts):
            found.add(context.path)
    return found


def make_app(flow: Flow, **settings: Any) -> FastAPI:
    """Make an application that has every endpoint twice: by itself and in a router that is included."""
    app = FastAPI(**settings)
    for router in (make_router(flow), make_others(flow)):
        app.router.routes += router.routes
        app.include_router(router, prefix="/in")
    return app


SHORT = {"/join", "/items/{item}", "/response", "/bare", "/unchecked", "/made", "/class", "/elsewhere", "/any"}
"""Paths that `make_router` declares."""

JSON = {"content-type": "application/json"}
BODIES = [
    b'{"words": ["a", "b"]}',
    b' {"words": ["a"], "times": "2", "times": 3, "other": NaN}\n',
    '{"words": ["ä"]}'.encode("utf-16"),
    b'{"words": ["\\ud800"]}',
    b'{"words": ["teapot"]}',
    b'{"words": ["error"]}',
    b'{"words": ["model"]}',
    b'{"words": ["unknown"]}',
    b'{"words": ["a", "a"]}',
    b'{"words": ["nonsense"]}',
    b'{"words": 1, "times": "x"}',
    b'{"words": ["a"]',
    b'{"words": ["a"]} x',
    b"\xff",
    b"[" * 100_000,
    b"null",
    b"[]",
    b"",
]
TYPES = [
    {"content-type": "Application/JSON; charset=latin-1"},
    {"content-type": "application/json; charset=utf-8"},
    {"content-type": "application/merge-patch+json"},
    {"content-type": "text/plain"},
    {"content-type": "application/x-www-form-urlencoded"},
    {},
]
QUERIES = ["/items/3?page=1&page=2&limit=5", "/items/3?page=x", "/items/10?page=1&limit=y", "/items/3"]


def requests() -> Iterator[tuple[str, dict[str, str], bytes]]:
    """List requests, usual and not."""
    for path in SHORT - {"/items/{item}"}:
        for body in BODIES:
            yield path, JSON, body
    for headers in TYPES:
        yield "/join", headers, BODIES[0]
        yield "/join", headers, BODIES[7]
    for path in QUERIES:
        yield path, {**JSON, "x-user": "me", "cookie": "session=s"}, BODIES[0]
        yield path, JSON, BODIES[7]


async def ask(
    http: httpx.AsyncClient | httpx2.AsyncClient, path: str, headers: dict[str, str], body: bytes
) -> tuple[Any, ...]:
    """Return all of an answer that does not depend on time."""
    method = "PUT" if path.startswith(("/items", "/in/items")) else "POST"
    response = await http.request(method, path, headers=headers, content=body)
    kept = response.headers.multi_items()
    return response.status_code, kept, response.content


@pytest.mark.parametrize("prefix", ["", "/in"], ids=["own", "included"])
async def test_every_answer_is_the_same(prefix: str) -> None:
    """Whatever is sent; and an unusual request finds FastAPI itself."""
    flow = forked(Join())
    fast, own = make_app(flow, lifespan=Aqueduct(flow).lifespan), make_app(flow)
    fast.router.redirect_slashes = own.router.redirect_slashes = False
    async with (
        client(fast, raise_app_exceptions=False) as ours,
        bare_client(own, raise_app_exceptions=False) as theirs,
    ):
        statuses = set()
        for path, headers, body in requests():
            found = await ask(ours, prefix + path, headers, body)
            assert found == await ask(theirs, prefix + path, headers, body), (path, headers, body)
            statuses.add(found[0])
        assert statuses == {200, 201, 202, 203, 206, 307, 400, 418, 422, 500}
    assert prefix + "/join" in fast_paths(fast)
    assert not fast_paths(own)


async def test_what_is_on_the_fast_path() -> None:
    """Every endpoint for which FastAPI would do nothing that we do not know; also after a second start."""
    flow = forked(Join())
    app = make_app(flow, lifespan=Aqueduct(flow).lifespan)
    for _ in range(2):
        async with client(app) as http:
            assert fast_paths(app) == SHORT | {"/in" + path for path in SHORT}
            assert (await http.post("/join", json={"words": ["a"]})).json() == {"text": "a", "note": None}
            for path, text in (("/dependency", "aword"), ("/unchecked", "a")):
                assert (await http.post(path, json={"words": ["a"]})).json()["text"] == text
            answer = await http.post("/embedded", json={"order": {"words": ["a"]}, "more": 1})
            assert answer.json()["text"] == "a 1"
            assert (await http.post("/cookie", json={"words": ["a"]})).cookies["a"] == "b"
            assert (await http.post("/empty", json={"words": ["a"]})).status_code == 204


async def test_the_response_class_of_an_application() -> None:
    """It makes the responses, whatever is annotated."""
    flow = forked(Join())
    fast = make_app(flow, lifespan=Aqueduct(flow).lifespan, default_response_class=Quoted)
    own = make_app(flow, default_response_class=Quoted)
    async with client(fast) as ours, bare_client(own) as theirs:
        for path in ("/in/join", "/in/bare", "/in/unchecked", "/in/any"):
            found = await ask(ours, path, JSON, BODIES[0])
            assert found == await ask(theirs, path, JSON, BODIES[0])
            assert found[2].startswith(b"<{")
            assert path in fast_paths(fast)


async def test_a_body_that_is_too_large() -> None:
    """FastAPI refuses it, as it does elsewhere, announced or not."""
    flow = forked(Join())
    fast, own = (
        make_app(flow, lifespan=Aqueduct(flow).lifespan, max_body_size=1000),
        make_app(flow, max_body_size=1000),
    )

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    async with client(fast) as ours, bare_client(own, raise_app_exceptions=False) as theirs:
        for make in (lambda: b" " * 2000, pieces):
            answers = [await http.post("/join", headers=JSON, content=make()) for http in (ours, theirs)]
            assert [answer.status_code for answer in answers] == [413, 413]
            assert answers[0].content == answers[1].content
        assert (await ours.post("/join", json={"words": ["a"]})).status_code == 200


class Stumble:
    """Middleware whose ``receive`` raises an error once, in the middle of a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        count = itertools.count()

        async def stumbling() -> Message:
            if next(count) == 1:
                raise ValueError("once")
            return await receive()

        await self._app(scope, stumbling, send)


async def test_a_body_that_broke_off() -> None:
    """The rest of it is not read."""
    flow = forked(Join())
    app = make_app(flow, lifespan=Aqueduct(flow).lifespan)

    async def pieces() -> AsyncIterator[bytes]:
        yield b" "
        yield b"{"
        yield b'{"words": ["a"]}'

    async with client(app), bare_client(Stumble(app), raise_app_exceptions=False) as http:
        response = await http.post("/join", headers=JSON, content=pieces())
        assert (response.status_code, response.json()) == (400, {"detail": "There was an error parsing the body"})


async def test_an_upload_is_on_the_fast_path() -> None:
    """With its parameters; what is wrong is refused before the body."""
    flow = forked(Add())
    app = total_application(flow)

    async with client(app) as http:
        assert fast_paths(app) == {"/total"}
        assert (await http.post("/total?factor=3", content=b"\1\2")).json() == 9
        refused = await http.post("/total?factor=0", content=b"\1\2")
        assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["query", "factor"]


async def test_a_route_of_another_class() -> None:
    """FastAPI handles it."""
    flow = forked(Join())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    app.router.route_class = PlainRoute

    @app.post("/join")
    @flow_endpoint(flow)
    async def join(task: Text) -> Answer:
        return Answer(text=task.text)

    async with client(app) as http:
        assert not fast_paths(app)
        assert (await http.post("/join", json={"words": ["a"]})).status_code == 200


async def test_a_decorator_around_an_endpoint() -> None:
    """It is called, although it copies all attributes of the endpoint, as decorators do."""
    flow = forked(Join())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    def guarded(endpoint: Any) -> Any:
        @functools.wraps(endpoint)
        async def guard(*args: Any, **kwargs: Any) -> Any:
            raise HTTPException(403, "not for you")

        return guard

    @app.post("/join")
    @guarded
    @flow_endpoint(flow)
    async def join(task: Text) -> Answer:
        return Answer(text=task.text)

    async with client(app) as http:
        assert not fast_paths(app)
        assert (await http.post("/join", json={"words": ["a"]})).status_code == 403


@pytest.mark.parametrize("name", _PASSED)
async def test_a_function_that_was_replaced(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As packages do that observe requests: FastAPI's own way is theirs."""
    function: Any = getattr(routing, name)
    calls = []

    @functools.wraps(function)
    def observed(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return function(*args, **kwargs)

    monkeypatch.setattr(routing, name, observed)
    flow = Flow(Join())
    app = make_app(flow, lifespan=Aqueduct(flow).lifespan)
    with caplog.at_level(logging.INFO):
        async with client(app) as http:
            assert not fast_paths(app)
            assert (await http.post("/join", json={"words": ["a"]})).status_code == 200
    assert calls
    (line,) = lines_of(caplog)
    assert f"fastapi.routing.{name} was replaced" in line


NAMES = {
    routing: ["_effective_route_context_var", "_extract_endpoint_context", "request_response", "serialize_response"]
    + ["wrap_app_with_body_limit"],
    dependency_utils: ["request_params_to_args"],
    datastructures: ["DefaultPlaceholder"],
    utils: ["is_body_allowed_for_status_code"],
}
"""What `use_fast_path` needs of FastAPI beside its public interface."""


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("endpoints are answered by FastAPI's own handler")]


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
async def test_a_name_that_is_missing(
    module: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In another FastAPI: the fast path is off, and one line of the log says so."""
    flow = Flow(Join())
    app = FastAPI()  # without included routers: FastAPI itself needs some of the names when it first looks at those
    app.router.routes += make_router(flow).routes
    aqueduct = Aqueduct(flow)
    monkeypatch.delattr(module, name)
    with caplog.at_level(logging.INFO):
        aqueduct.install(app)
        aqueduct.install(app)
    monkeypatch.undo()
    assert not fast_paths(app)
    (line,) = lines_of(caplog)
    assert name in line


@pytest.mark.parametrize("package", [fastapi, starlette])
async def test_a_release_that_is_not_known(
    package: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """FastAPI handles it."""
    monkeypatch.setattr(package, "__version__", "99.1.0")
    flow = Flow(Join())
    app = make_app(flow, lifespan=Aqueduct(flow).lifespan)
    with caplog.at_level(logging.INFO):
        async with client(app) as http:
            assert not fast_paths(app)
            for path in ("/join", "/bare", "/class"):
                assert (await http.post(path, json={"words": ["a"]})).status_code in (200, 201)
    (line,) = lines_of(caplog)
    assert f"{package.__name__} 99.1.0 is not among the tested releases" in line


async def test_the_switch(caplog: pytest.LogCaptureFixture) -> None:
    """It leaves FastAPI's handlers where they are; bodies are guarded all the same."""
    flow = forked(Join())
    app = make_app(flow, lifespan=Aqueduct(flow, fast_path=False).lifespan)
    with caplog.at_level(logging.INFO):
        async with client(app) as http:
            assert not fast_paths(app)
            assert (await http.post("/join", json={"words": ["a"]})).status_code == 200
    assert lines_of(caplog) == []


IMPORTS = """
import fastapi._compat, fastapi.datastructures, fastapi.dependencies.utils, fastapi.routing, fastapi.utils
for module, names in {names!r}.items():
    for name in names:
        delattr(__import__(module, fromlist=["*"]), name)
from fastapi_aqueduct import *
"""


def test_the_package_can_be_imported_without_them() -> None:
    names = {module.__name__: found for module, found in NAMES.items()} | {"fastapi._compat": ["ModelField"]}
    code = IMPORTS.replace("{names!r}", repr(names))
    subprocess.run([sys.executable, "-c", code], env=script_environment(), check=True, timeout=DEADLINE)


class Provider(trace.TracerProvider):
    """Makes FastAPI act as if telemetry had a listener."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        """Return a tracer that records nothing."""
        return trace.NoOpTracer()


async def test_telemetry_that_listens() -> None:
    """It sees the parameters that FastAPI has found."""
    flow = forked(Join())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan, telemetry={"tracer_provider": Provider()})
    seen: list[Any] = []

    @app.post("/join")
    @flow_endpoint(flow)
    async def join(task: Text) -> Answer:
        data = get_telemetry_data()
        assert data is not None
        seen.append(data.body)
        return Answer(text=task.text)

    async with client(app) as http:
        assert fast_paths(app) == {"/join"}
        assert (await http.post("/join", json={"words": ["a"]})).status_code == 200
    assert seen == [{"words": ["a"]}]
