"""Endpoints with a stream: what a client sees of the items of a task."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import EventSourceResponse, JSONResponse, StreamingResponse
from fastapi.security import APIKeyQuery
from fastapi.sse import ServerSentEvent
from fastapi.telemetry import get_telemetry_data
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from fastapi_aqueduct import (
    Aqueduct,
    ConfigurationError,
    Flow,
    FlowStep,
    FlowStream,
    WorkerDied,
    flow_endpoint,
)
from fastapi_aqueduct.asgi.dependencies import GivenFlow
from fastapi_aqueduct.asgi.endpoints.stream_endpoint import VALUES
from fastapi_aqueduct.asgi.endpoints.stream_path import StreamPath

from ..handlers import Gate, Rounds, Yielding, notes
from ..support import blocks, eventually, forked, pids
from .handlers import Recital, Speech, recite, speak
from .support import Connection, serving
from .test_fast_path import Provider


class Word(BaseModel):
    """What a client gets for each item."""

    text: str


async def refuse_without_key(key: Annotated[str, Depends(APIKeyQuery(name="key"))]) -> None:
    """Refuse all keys but one."""
    if key != "open":
        raise HTTPException(403)


FORMATS: dict[str, Any] = {"events": EventSourceResponse, "lines": None, "pieces": StreamingResponse}
"""The class of response of each format."""

WAYS: dict[str, dict[str, Any]] = {
    "alone": {},
    "with a dependency": {"dependencies": [Depends(refuse_without_key)]},
    "by FastAPI": {"dependencies": [Depends(refuse_without_key)], "response_model_exclude_none": True},
}
"""Options of the routes, which decide what answers: without FastAPI's handler, after it, or the handler itself."""

PATHS = [f"/{way}/{kind}" for way in WAYS for kind in FORMATS]
"""The endpoints of `make_app`."""

SOME = ["/alone/events", "/with a dependency/lines", "/by FastAPI/lines"]
"""One of each way, for what takes its time."""

OURS = [path for path in PATHS if not path.startswith("/by")]
"""Those with a response of our own."""


def make_app(flow: Flow, **limits: Any) -> FastAPI:
    """Make an application with a streaming endpoint for each format and each way."""
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    async def words(task: Speech, items: FlowStream[str], shout: bool = False) -> AsyncIterator[Word]:
        async for text in items:
            yield Word(text=text.upper() if shout else text)

    async def pieces(task: Speech, items: FlowStream[str], shout: bool = False) -> AsyncIterator[str]:
        async for text in items:
            yield f"{text.upper() if shout else text};"

    for way, options in WAYS.items():
        for kind, response_class in FORMATS.items():
            more = {} if response_class is None else {"response_class": response_class}
            function = pieces if kind == "pieces" else words
            app.post(f"/{way}/{kind}", **options, **more)(flow_endpoint(flow, **limits)(function))
    return app


def make_flow(**options: Any) -> Flow:
    """Make a flow that speaks."""
    return forked(FlowStep(Yielding(speak), concurrency=1, max_retries=0), **options)


@contextlib.asynccontextmanager
async def served(app: ASGIApp, flow: Flow) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application; at the end no block of shared memory may be held."""
    async with serving(app) as http:
        yield http
        await eventually(lambda: blocks(flow) == 0)


def params_of(directory: Path, **params: Any) -> dict[str, Any]:
    """Return the parameters of a request that is not refused."""
    return {"directory": str(directory), "key": "open", **params}


def body_of(path: str, count: int) -> bytes:
    """Return the body of a response with the first words of a speech."""
    texts = [f"word {number}" for number in range(count)]
    if path.endswith("pieces"):
        return "".join(f"{text};" for text in texts).encode()
    lines = [json.dumps({"text": text}, separators=(",", ":")) for text in texts]
    return "".join(f"{line}\n" if path.endswith("lines") else f"data: {line}\n\n" for line in lines).encode()


async def cut_body(http: httpx.AsyncClient, path: str, params: dict[str, Any]) -> bytes:
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


def stream_paths(app: FastAPI) -> set[str]:
    """Return the paths of the routes that get a response of our own."""
    return {route.path for route in app.routes if isinstance(getattr(route, "app", None), StreamPath)}  # type: ignore[attr-defined]


# The response


async def test_items_come_in_the_format_of_the_response_class(tmp_path: Path) -> None:
    flow = make_flow()
    app = make_app(flow)
    async with served(app, flow) as http:
        assert stream_paths(app) == set(OURS)
        headers = {}
        for path in PATHS:
            for count in (0, 1, 200):
                response = await http.post(path, params=params_of(tmp_path, count=count))
                assert (response.status_code, response.content) == (200, body_of(path, count))
                headers[path] = {name: value for name, value in response.headers.items() if name != "date"}
            response = await http.post(path, params=params_of(tmp_path, shout=True))
            assert b"WORD 2" in response.content
    assert headers["/alone/events"]["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["/alone/events"]["cache-control"] == "no-cache"
    for kind in FORMATS:
        assert headers[f"/alone/{kind}"] == headers[f"/with a dependency/{kind}"] == headers[f"/by FastAPI/{kind}"]


async def test_a_failure_before_the_first_value_has_a_status(tmp_path: Path) -> None:
    flow = make_flow()
    async with served(make_app(flow, timeout_sec=60), flow) as http:
        for path in PATHS:
            assert (await http.post(path, params=params_of(tmp_path, act="raise"))).status_code == 500
        assert (await http.post(path, params=params_of(tmp_path, act="die"))).status_code == 503
    async with served(make_app(flow, timeout_sec=0.3), flow) as http:
        for number, path in enumerate(SOME):
            directory = tmp_path / str(number)
            directory.mkdir()
            assert (await http.post(path, params=params_of(directory, act="gate"))).status_code == 504
            Gate(directory).open()
            await eventually(lambda: "closed" in notes(directory / "notes"))  # noqa: B023


async def test_a_full_queue_is_a_503_with_retry_after(tmp_path: Path) -> None:
    flow = make_flow(queue_size=1)
    async with served(make_app(flow, timeout_sec=20), flow) as http:
        held = []
        while flow.statistics().steps[0].queued == 0:
            held.append(asyncio.create_task(read(http, PATHS[0], params_of(tmp_path, act="gate"))))
            seen = len(held)
            await eventually(lambda: flow.statistics().in_flight == seen)  # noqa: B023
        for path in PATHS:
            response = await http.post(path, params=params_of(tmp_path))
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        Gate(tmp_path).open()
        await asyncio.gather(*held)


async def test_a_failure_later_cuts_the_connection_after_all_items(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """FastAPI's own Server-Sent Events lose the last ones."""
    caplog.set_level(logging.INFO)
    flow = make_flow()
    async with served(make_app(flow, timeout_sec=60, item_timeout=1), flow) as http:
        for path in set(PATHS) - {"/by FastAPI/events"}:
            assert await cut_body(http, path, params_of(tmp_path, act="raise", at=2)) == body_of(path, 2)
            params = params_of(tmp_path, act="raise", count=200, at=200)
            assert await cut_body(http, path, params) == body_of(path, 200)
        caplog.clear()
        assert await cut_body(http, "/alone/lines", params_of(tmp_path, act="die", at=1)) == body_of("lines", 1)
        await eventually(lambda: pids(flow))
        assert await cut_body(http, "/alone/lines", params_of(tmp_path, act="gate", at=1)) == body_of("lines", 1)
        Gate(tmp_path).open()
    lines = [record.getMessage() for record in caplog.records if record.name == "fastapi_aqueduct"]
    cuts = [line for line in lines if line.startswith("POST /alone/lines: the response was cut: ")]
    assert "was killed by SIGKILL" in cuts[0]
    assert "timeout of a task" in cuts[1]
    assert not [record for record in caplog.records if record.exc_info]  # errors of the flow are no tracebacks


async def test_a_request_that_is_refused_calls_no_handler(tmp_path: Path) -> None:
    """Neither does one with an invalid parameter of the endpoint, nor one that a dependency of the router refuses."""
    flow = make_flow()
    async with served(make_app(flow), flow) as http:
        for path in PATHS:
            refused: list[dict[str, Any]] = [{"count": -1}, {"shout": "loud"}]
            if not path.startswith("/alone"):
                refused += [{"key": "wrong"}]
                assert (await http.post(path, params={"directory": str(tmp_path)})).status_code == 401
            statuses = [(await http.post(path, params=params_of(tmp_path, **case))).status_code for case in refused]
            assert statuses == [422, 422, 403][: len(refused)]
        assert notes(tmp_path / "notes") == []
        assert flow.statistics().completed == 0


@pytest.mark.parametrize("at", [0, 2])
async def test_a_client_that_leaves_ends_the_task(at: int, tmp_path: Path) -> None:
    flow = make_flow()
    async with served(make_app(flow, timeout_sec=20), flow) as http:
        for number, path in enumerate(PATHS):
            directory = tmp_path / str(number)
            directory.mkdir()
            request = asyncio.create_task(read(http, path, params_of(directory, act="gate", at=at)))
            await eventually(Gate(directory).is_entered)
            request.cancel()
            await asyncio.wait([request])
            await eventually(lambda: flow.statistics().in_flight == 0)
            Gate(directory).open()
            await eventually(lambda: notes(directory / "notes") == ["called", "closed"])  # noqa: B023


async def test_a_stream_has_a_total_timeout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also while the client reads nothing: its connection is closed."""
    caplog.set_level(logging.INFO)
    flow = make_flow()
    async with served(make_app(flow, timeout_sec=20, total_timeout=1), flow) as http:
        for number, path in enumerate(SOME):
            for at in (0, 1):
                directory = tmp_path / f"{number} {at}"
                directory.mkdir()
                params = params_of(directory, act="gate", at=at)
                if at:
                    assert await cut_body(http, path, params) == body_of(path, 1)
                else:
                    assert (await http.post(path, params=params)).status_code == 504
                Gate(directory).open()
                await eventually(lambda: notes(directory / "notes") == ["called", "closed"])  # noqa: B023
        assert "POST /alone/events: the response was cut: it did not end within its total_timeout" in caplog.messages
        async with Connection(http) as connection:
            await connection.send(f"/alone/lines?directory={tmp_path}&count=10000000")
            await connection.read_head()
            await eventually(lambda: notes(tmp_path / "notes") == ["called", "closed"])


# The function


async def test_the_function_decides_what_is_sent(tmp_path: Path) -> None:
    """Its failure before the first value, the status, headers, events, and what happens after the response."""
    flow = make_flow()
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    done: list[str] = []

    @app.post("/events", response_class=EventSourceResponse)
    @flow_endpoint(flow)
    async def events(
        task: Speech, items: FlowStream[str], last_event_id: Annotated[int, Header()] = -1
    ) -> AsyncIterator[ServerSentEvent]:
        number = -1
        async for text in items:
            number += 1
            if number > last_event_id:
                yield ServerSentEvent(data={"text": text}, id=str(number), event="word", retry=1, comment="a\nb")
        yield ServerSentEvent(raw_data=f"{task.total} words\nin all")

    @app.post("/lines", status_code=201)
    @flow_endpoint(flow)
    async def lines(
        task: Speech, items: FlowStream[str], response: Response, background: BackgroundTasks, case: str = ""
    ) -> AsyncIterator[Word]:
        response.headers["x-case"] = case
        if case == "teapot":
            raise HTTPException(418)
        if case == "status":
            response.status_code = 202
        background.add_task(done.append, case)
        if case == "wrong":
            yield 1  # type: ignore[misc]
        async with asyncio.timeout(0.1 if case == "time" else 20):
            async for text in items:
                yield Word(text=text)
                if case == "time":
                    await asyncio.sleep(20)

    async with served(app, flow) as http:
        event = 'data: {"text":"word 2"}\nid: 2\nretry: 1\n\n'
        response = await http.post("/events", params=params_of(tmp_path), headers={"last-event-id": "1"})
        assert response.text == f": a\n: b\nevent: word\n{event}data: 3 words\ndata: in all\n\n"
        assert (await http.post("/lines", params=params_of(tmp_path, case="teapot"))).status_code == 418
        response = await http.post("/lines", params=params_of(tmp_path))
        assert (response.status_code, response.content) == (201, body_of("lines", 3))
        response = await http.post("/lines", params=params_of(tmp_path, case="status"))
        assert (response.status_code, response.headers["x-case"]) == (202, "status")
        await eventually(lambda: done == ["", "status"])  # they run when the client has its answer
        assert (await http.post("/lines", params=params_of(tmp_path, case="wrong"))).status_code == 500
        with pytest.raises(httpx.RemoteProtocolError):  # the timeout of the function is not that of the request
            await http.post("/lines", params=params_of(tmp_path, case="time"))


async def test_a_consumer_that_is_too_slow_for_a_batch_loses_its_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can pause a stream of a batch. The client gets what was there, and no end."""
    caplog.set_level(logging.INFO)
    flow = forked(FlowStep(Rounds(), batch_size=2, continuous=True))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/numbers")
    @flow_endpoint(flow, timeout_sec=20)
    async def numbers(task: Speech, items: FlowStream[int], is_slow: bool = False) -> AsyncIterator[int]:
        async for number in items:
            yield number
            if is_slow:
                await eventually(lambda: flow.statistics().failed)
            else:
                seen.append(number)

    seen: list[int] = []
    async with served(app, flow) as http:
        params: dict[str, Any] = {"directory": str(tmp_path)}
        request = asyncio.create_task(cut_body(http, "/numbers", {**params, "count": 20_000, "is_slow": True}))
        # The handler waits once for the other one, which would be too slow as well on a busy machine.
        params |= {"count": 5000, "act": "gate", "at": 2500}
        other = asyncio.create_task(http.post("/numbers", params=params))
        await eventually(lambda: len(seen) > 1500)
        Gate(tmp_path).open()
        assert len((await other).content.split()) == 5000
        assert (await request).split()[0] == b"0"
    assert "wait for its consumer, which reads too slowly" in caplog.text


async def test_an_exception_handler_of_the_application_answers_before_the_head(tmp_path: Path) -> None:
    flow = make_flow()
    app = make_app(flow, timeout_sec=60)

    @app.exception_handler(WorkerDied)
    async def died(request: Request, exc: WorkerDied) -> JSONResponse:
        return JSONResponse({"step": exc.step}, 502)

    async with served(app, flow) as http:
        response = await http.post("/alone/lines", params=params_of(tmp_path, act="die"))
        assert (response.status_code, response.json()) == (502, {"step": "step1_Yielding"})
        await eventually(lambda: pids(flow))
        assert await cut_body(http, "/alone/lines", params_of(tmp_path, act="die", at=1)) == body_of("lines", 1)


async def test_the_flow_and_the_router_of_an_endpoint(tmp_path: Path) -> None:
    """FastAPI's overrides replace the flow; an included router adds a prefix and a dependency."""
    flow, other = make_flow(), make_flow()
    router, app = APIRouter(), FastAPI(lifespan=Aqueduct(other, flow).lifespan)

    @router.post("/lines")
    @flow_endpoint(flow, server_timing=True)
    async def lines(task: Speech, items: FlowStream[str]) -> AsyncIterator[Word]:
        async for text in items:
            yield Word(text=text)

    app.include_router(router, prefix="/in", dependencies=[Depends(refuse_without_key)])
    app.include_router(router, prefix="/alone")
    async with served(app, flow) as http:
        for path in ("/in/lines", "/alone/lines"):
            response = await http.post(path, params=params_of(tmp_path))
            assert response.content == body_of("lines", 3)
            assert response.headers["server-timing"].startswith("first;dur=")
        assert (await http.post("/in/lines", params=params_of(tmp_path, key="wrong"))).status_code == 403
        app.dependency_overrides[GivenFlow(flow)] = lambda: other
        for path in ("/in/lines", "/alone/lines"):
            assert (await http.post(path, params=params_of(tmp_path))).content == body_of("lines", 3)
        assert (flow.statistics().completed, other.statistics().completed) == (2, 2)


async def test_telemetry_that_listens(tmp_path: Path) -> None:
    """It sees the parameters that FastAPI has found, though the response is our own."""
    flow = make_flow()
    app = FastAPI(lifespan=Aqueduct(flow).lifespan, telemetry={"tracer_provider": Provider()})
    seen: list[Any] = []

    @app.post("/lines")
    @flow_endpoint(flow)
    async def lines(task: Speech, items: FlowStream[str]) -> AsyncIterator[Word]:
        async for text in items:
            yield Word(text=text)
        data = get_telemetry_data()
        assert data is not None and data.values is not None
        seen.extend(data.values)

    async with served(app, flow) as http:
        assert stream_paths(app) == {"/lines"}
        assert (await http.post("/lines", params=params_of(tmp_path))).content == body_of("lines", 3)
    assert VALUES in seen


async def test_a_function_may_collect_the_items(tmp_path: Path) -> None:
    flow = make_flow()
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/collect")
    @flow_endpoint(flow, timeout_sec=20, total_timeout=1.5, server_timing=True)
    async def collect(task: Speech, items: FlowStream[str]) -> list[str | int]:
        return [*[text async for text in items], task.total]

    async with served(app, flow) as http:
        response = await http.post("/collect", params=params_of(tmp_path))
        assert response.json() == ["word 0", "word 1", "word 2", 3]
        assert "step1_Yielding;dur=" in response.headers["server-timing"]
        assert (await http.post("/collect", params=params_of(tmp_path, act="gate", at=1))).status_code == 504
        Gate(tmp_path).open()
        assert (await http.post("/collect", params=params_of(tmp_path, act="die", at=1))).status_code == 503


async def test_uploads_and_large_items(caplog: pytest.LogCaptureFixture) -> None:
    """Both lie in shared memory. However a request ends, all of it is released at once, without garbage collection."""
    caplog.set_level(logging.CRITICAL, "uvicorn.error")  # it logs exceptions, whose frames refer to the task
    flow = forked(FlowStep(Yielding(recite)))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/echo", response_class=StreamingResponse)
    @flow_endpoint(flow)
    async def echo(task: Recital, items: FlowStream[Any]) -> AsyncIterator[Any]:
        async for piece in items:
            yield piece

    text = bytes(range(256)) * 4000
    bodies: list[dict[str, Any]] = [{"content": text}, {"files": {"text": text}}]
    async with served(app, flow) as http:
        gc.disable()
        for act in ("", "raise", "raise at once", "leave"):
            for body in bodies:
                received = b""
                with contextlib.suppress(httpx.RemoteProtocolError):
                    async with http.stream("POST", "/echo", params={"act": act}, **body) as response:
                        async for chunk in response.aiter_raw():
                            received += chunk
                            if act == "leave":
                                break
                assert response.status_code == (500 if act == "raise at once" else 200)
                assert act in ("raise at once", "leave") or received == text
                del response
                await eventually(lambda: flow.statistics().arena.blocks == 0)
        gc.enable()


async def test_the_schema_shows_the_type_of_the_items() -> None:
    app = make_app(make_flow())
    for aqueduct in (None, Aqueduct(make_flow())):
        if aqueduct is not None:
            aqueduct.install(app)
        paths = app.openapi()["paths"]
        for way in WAYS:
            responses = {kind: paths[f"/{way}/{kind}"]["post"]["responses"] for kind in FORMATS}
            reference = {"$ref": "#/components/schemas/Word"}
            assert responses["lines"]["200"]["content"]["application/jsonl"]["itemSchema"] == reference
            events = responses["events"]["200"]["content"]["text/event-stream"]["itemSchema"]
            assert events["properties"]["data"]["contentSchema"] == reference
            names = [item["name"] for item in paths[f"/{way}/lines"]["post"]["parameters"]]
            assert {"directory", "count", "act", "at", "shout"} <= set(names)
            assert aqueduct is None or {"422", "503", "504"} < set(responses["lines"])
        app.openapi_schema = None


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


async def words(task: Speech, items: FlowStream[str]) -> AsyncIterator[str]:
    async for text in items:
        yield text


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


def test_a_stream_without_flow_endpoint_is_refused() -> None:
    app = FastAPI()
    with pytest.raises(ConfigurationError, match="put @flow_endpoint"):
        app.post("/words")(streamed)
    with pytest.raises(ConfigurationError, match="put @flow_endpoint"):

        @app.post("/words")
        async def no_task(items: FlowStream[str]) -> None: ...


@pytest.mark.parametrize("kind", [Route, WebSocketRoute])
async def test_a_route_that_cannot_stream_is_refused_at_the_start(kind: Any) -> None:
    flow = make_flow()
    endpoint = flow_endpoint(flow)(words)
    app = Starlette(routes=[kind("/words", endpoint)])
    with pytest.raises(ConfigurationError, match="words at /words: .*stream"):
        async with Aqueduct(flow).run(app):
            pass
