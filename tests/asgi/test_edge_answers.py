"""What goes back: shared memory, headers that tell where the time went, and an answer to every error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.middleware.gzip import GZipMiddleware
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from fastapi_aqueduct import (
    Aqueduct,
    ArenaFull,
    DeadlineUnreachable,
    HandlerTimeout,
    IdempotencyConflict,
    JobCancelled,
    JobFailed,
    JobNotFinished,
    JobNotFound,
    NotRunningError,
    Overloaded,
    QueueFull,
    SharedResponse,
    StepUnavailable,
    StoreError,
    StoreFull,
    TaskTimeout,
    TaskTooLarge,
    TenantOverShare,
    TooManyJobs,
    WorkerDied,
    flow_endpoint,
)
from fastapi_aqueduct.asgi.errors import (
    ANSWERS,
    BodyError,
    BodyLengthMismatch,
    BodyTooLarge,
    BodyTooSlow,
    MalformedBody,
    UnsupportedBody,
    find_answer,
    http_error,
)
from fastapi_aqueduct.asgi.server_timing import server_timing
from fastapi_aqueduct.reports import StepMetrics
from fastapi_aqueduct.testing import client

from ..support import blocks, eventually, forked
from .edge_handlers import Paint, Pixels
from .handlers import Add, Adder, Picture, Sum
from .support import Connection, serving

# Shared memory


@pytest.mark.parametrize("http", ["direct", "httptools", "h11"])
@pytest.mark.parametrize("has_middleware", [False, True], ids=["plain", "middleware"])
async def test_an_array_goes_out_as_it_lies(http: Any, has_middleware: bool) -> None:
    """Whatever its size, also none; and its block is free when it was sent."""
    flow = forked(Paint())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/pixels")
    @flow_endpoint(flow)
    async def pixels(task: Pixels) -> SharedResponse:
        return SharedResponse(task.array, "image/x-raw", headers={"x-size": str(task.size)})

    if has_middleware:

        @app.middleware("http")
        async def middleware(request: Request, call_next: Any) -> Any:
            return await call_next(request)

        app.add_middleware(GZipMiddleware)

    async with client(app) if http == "direct" else serving(app, http) as server:
        for size in (0, 1, 65_536, 1_000_000):
            for kind in ("array", "bytes"):
                response = await server.get(f"/pixels?size={size}&kind={kind}")
                assert response.content == np.arange(size, dtype=np.uint32).tobytes()
                assert response.headers["content-type"] == "image/x-raw"
                assert response.headers["x-size"] == str(size)
                if not has_middleware:
                    assert response.headers["content-length"] == str(4 * size)
        assert (await server.head("/pixels?size=1")).status_code == 405
        await eventually(lambda: blocks(flow) == 0)


async def test_the_memory_is_held_until_it_was_sent() -> None:
    """A client that does not read keeps the block, and nothing of it is copied meanwhile."""
    flow = forked(Paint())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/pixels")
    @flow_endpoint(flow)
    async def pixels(task: Pixels) -> SharedResponse:
        return SharedResponse(task.array)

    async with serving(app) as server:
        async with Connection(server) as connection:
            await connection.send("/pixels?size=8000000", "Content-Length: 0")
            assert " 200 " in await connection.read_head()
            for _ in range(10):
                assert blocks(flow) == 1
                await asyncio.sleep(0)
            await connection.read_body(32_000_000)
            await eventually(lambda: blocks(flow) == 0)


async def send(response: Response) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def take(message: Any) -> None:
        sent.append(message)

    async def never() -> Any:
        raise AssertionError

    await response({"type": "http"}, never, take)
    return sent


async def test_a_shared_response_in_pieces() -> None:
    """Copied one by one for a server that is not known; what runs in the background runs then."""
    done: list[int] = []
    array = np.zeros((12_000, 1000), np.uint8)
    response = SharedResponse(array, background=BackgroundTask(done.append, 1))
    messages = await send(response)
    pieces = [message["body"] for message in messages[1:]]
    assert b"".join(pieces) == array.tobytes()
    assert max(map(len, pieces)) == 256 << 10
    assert [message["more_body"] for message in messages[1:]] == [True] * (len(pieces) - 1) + [False]
    assert {type(piece) for piece in pieces} == {bytes}
    assert done == [1]
    with pytest.raises(RuntimeError, match="once"):
        await send(response)


@pytest.mark.parametrize("content", ["text", 5, np.zeros((4, 4))[:, ::2]])
def test_what_has_no_bytes_in_one_piece(content: Any) -> None:
    """It is refused rather than copied in silence."""
    with pytest.raises(TypeError):
        SharedResponse(content)


# Server-Timing


async def test_where_the_time_went() -> None:
    """Whatever the function returns, where it was asked for."""
    flow = forked(Add())
    aqueduct = Aqueduct(flow, server_timing=True)
    app = FastAPI(lifespan=aqueduct.lifespan)

    @app.post("/value")
    @flow_endpoint(flow)
    async def value(task: Picture) -> int:
        return task.total

    @app.post("/own")
    @flow_endpoint(flow)
    def own(task: Picture, response: Response) -> int:
        response.headers["server-timing"] = "mine;dur=1"
        response.headers["x-own"] = "y"
        return task.total

    @app.post("/response")
    @flow_endpoint(flow)
    async def made(task: Picture) -> Response:
        return Response("made", headers={"x-own": "y"})

    @app.post("/off")
    @flow_endpoint(flow, server_timing=False)
    async def off(task: Picture) -> int:
        return task.total

    @app.post("/on")
    @flow_endpoint(flow, server_timing=True)
    async def on(task: Picture) -> int:
        return task.total

    async with client(app) as http:
        for path in ("value", "own", "response"):
            response = await http.post(f"/{path}", content=b"\1")
            assert response.status_code == 200
            entries = response.headers.get_list("server-timing")
            names = [entry.partition(";")[0] for entry in entries[-1].split(", ")]
            assert names == ["upload", "queue", "step1_Add", "total"], path
            assert all(float(entry.partition("dur=")[2]) >= 0 for entry in entries[-1].split(", "))
            assert (entries[0] == "mine;dur=1") == (path == "own")
        assert "server-timing" not in (await http.post("/off", content=b"\1")).headers
    for default in (Aqueduct(flow), Aqueduct(flow, server_timing=False)):
        app.router.lifespan_context = default.lifespan
        async with client(app) as http:
            assert "server-timing" not in (await http.post("/value", content=b"\1")).headers
            assert "server-timing" in (await http.post("/on", content=b"\1")).headers


async def test_where_the_time_went_on_a_starlette_route() -> None:
    """The same; a task without an upload has no time for one."""
    flow = forked(Adder())

    async def answer(task: Sum) -> Response:
        return Response(str(task.result))

    route = Route("/sum", flow_endpoint(flow, server_timing=True)(answer))
    app = Starlette(routes=[route], lifespan=Aqueduct(flow).lifespan)
    async with client(app) as http:
        response = await http.get("/sum?a=1")
        assert response.text == "11"
        assert response.headers["server-timing"].startswith("queue;dur=")


def test_the_header() -> None:
    """Milliseconds; names are tokens."""
    steps = [StepMetrics("a b/ü", 0.001, 0.25, 1), StepMetrics("c", 0.002, 0.5, 8)]
    assert server_timing(0.1, steps, 1).split(b", ") == [
        b"upload;dur=100.000",
        b"queue;dur=3.000",
        b"a_b_;dur=250.000",
        b"c;dur=500.000",
        b"total;dur=1000.000",
    ]


# Errors


ROWS: list[tuple[Callable[[], Exception], int, bool]] = [
    (lambda: BodyTooLarge("large"), 413, True),
    (lambda: BodyTooSlow("slow"), 408, True),
    (lambda: UnsupportedBody("type"), 415, True),
    (lambda: BodyLengthMismatch("length"), 400, True),
    (lambda: MalformedBody("form"), 400, True),
    (lambda: BodyError("body"), 400, True),
    (lambda: ClientDisconnect(), 499, False),
    (lambda: Overloaded("busy", retry_after=2.5), 503, False),
    (lambda: QueueFull("full"), 503, False),
    (lambda: TenantOverShare("full"), 429, False),
    (lambda: ArenaFull("full"), 503, False),
    (lambda: TaskTooLarge("large"), 413, False),
    (lambda: DeadlineUnreachable("late"), 503, False),
    (lambda: StepUnavailable("none", retry_after=0.1), 503, False),
    (lambda: NotRunningError("stopped"), 503, False),
    (lambda: WorkerDied("step", 1, -9), 503, False),
    (lambda: TaskTimeout("late"), 504, False),
    (lambda: HandlerTimeout("late"), 504, False),
    (lambda: JobNotFound("none"), 404, False),
    (lambda: JobNotFinished("running"), 409, False),
    (lambda: JobFailed("failed"), 409, False),
    (lambda: JobCancelled("cancelled"), 409, False),
    (lambda: IdempotencyConflict("key"), 409, False),
    (lambda: TooManyJobs("many"), 503, False),
    (lambda: StoreFull("disk"), 507, False),
    (lambda: StoreError("file"), 503, False),
]


@pytest.mark.parametrize(("make", "status", "is_told"), ROWS, ids=[type(row[0]()).__name__ for row in ROWS])
async def test_every_row_of_the_table(make: Callable[[], Exception], status: int, is_told: bool) -> None:
    """The client learns what concerns its request and no more; 503 says when to come back."""
    app = FastAPI()
    error = make()

    @app.get("/")
    async def fail(request: Request) -> None:
        raise http_error(request.scope, error)

    async with client(app) as http:
        response = await http.get("/")
        assert response.status_code == status
        assert (str(error) == response.json()["detail"]) == is_told
        passing = Overloaded | NotRunningError | JobNotFinished | StoreError
        is_retryable = isinstance(error, passing) and not isinstance(error, TaskTooLarge)
        assert ("retry-after" in response.headers) == is_retryable
        if is_retryable:
            assert response.headers["retry-after"] == str(max(1, -int(-getattr(error, "retry_after", 1) // 1)))


def test_the_table_is_whole() -> None:
    """Every row is tested above, and what is not in it is left to the application."""
    assert {type(make()) for make, _, _ in ROWS} >= set(ANSWERS)
    assert find_answer(ZeroDivisionError()) is None
    scope = {"type": "http", "method": "GET", "path": "/"}
    error = ZeroDivisionError()
    assert http_error(scope, error) is error
    late = TaskTimeout("late")
    assert http_error({**scope, "type": "websocket"}, late) is late
