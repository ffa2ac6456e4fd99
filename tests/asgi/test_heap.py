"""Bodies that FastAPI, or a plain route, reads onto the heap: the guards of uploads hold for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Form, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware

from fastapi_aqueduct import Aqueduct, AqueductError, Flow, FlowDep, FlowTask, UploadLimits, flow_endpoint

from ..support import DEADLINE, engine_of, eventually, forked
from .edge_handlers import Pass
from .handlers import Adder, Picture, Sum
from .json_handlers import Join, Order, Text
from .support import Connection, serving

LIMIT = 100_000
MIB = 1 << 20
BODY = b'{"words": ["a", "b"]}'
JSON = "Content-Type: application/json"

Rules = dict[str, Any]


class OwnRoute(APIRoute):
    """Not eligible for the fast path."""


def app_with(flow: Flow, **settings: Any) -> tuple[FastAPI, Callable[..., Any]]:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan, **settings)
    return app, app.post("/join")


async def add(task: Sum) -> int:
    return task.result


async def join(task: Text) -> str:
    return task.text


def fast(flow: Flow, rules: Rules) -> Any:
    """On the fast path."""
    app, post = app_with(flow)
    post(flow_endpoint(flow, **rules)(join))
    return app


def class_of_route(flow: Flow, rules: Rules) -> Any:
    """A route of the user's own class: all that holds for a FastAPI that is not known, too."""
    app, post = app_with(flow)
    app.router.route_class = OwnRoute
    app.post("/join")(flow_endpoint(flow, **rules)(join))
    return app


def dependency(flow: Flow, rules: Rules) -> Any:
    """FastAPI's own handler, for the sake of a dependency."""
    app, post = app_with(flow)

    @post
    @flow_endpoint(flow, **rules)
    async def endpoint(task: Text, word: Annotated[str, Depends(lambda: "word")]) -> str:
        return task.text

    return app


async def read_order(request: Request) -> Order:
    return Order(**await request.json())


def reading(flow: Flow, rules: Rules) -> Any:
    """A dependency that reads the body itself."""
    app, post = app_with(flow)

    @post
    @flow_endpoint(flow, **rules)
    async def endpoint(task: Sum, order: Annotated[Order, Depends(read_order)]) -> str:
        return " ".join(order.words)

    return app


def included(flow: Flow, rules: Rules) -> Any:
    """A router that is included after the application was introduced to the flow."""
    app = FastAPI()
    Aqueduct(flow).install(app)
    router = APIRouter(dependencies=[Depends(lambda: None)])
    router.post("/join")(flow_endpoint(flow, **rules)(join))
    app.include_router(router)
    return app


def mounted(flow: Flow, rules: Rules) -> Any:
    """An application inside another."""
    app, _ = app_with(flow)
    inner = FastAPI(dependencies=[Depends(lambda: None)])
    inner.post("/")(flow_endpoint(flow, **rules)(join))
    inner.router.redirect_slashes = False
    app.mount("/join", inner)
    return app


def task(flow: Flow, rules: Rules) -> Any:
    """An endpoint that processes the task itself."""
    app, post = app_with(flow)

    async def endpoint(task: Text, flow: FlowDep) -> str:
        await flow.process(task)
        return task.text

    endpoint.__annotations__["task"] = Annotated[Text, FlowTask(**rules)]
    post(endpoint)
    return app


def middleware(flow: Flow, rules: Rules) -> Any:
    """Behind a middleware that wraps ``receive``."""
    app = fast(flow, rules)

    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    return app


def overridden(flow: Flow, rules: Rules) -> Any:
    """A route on the fast path, which the overrides of a test block."""
    app = fast(flow, rules)
    app.dependency_overrides[print] = print
    return app


def plain(flow: Flow, rules: Rules) -> Any:
    """A route of Starlette."""
    app = Starlette(lifespan=Aqueduct(flow).lifespan)
    app.add_route("/join", flow_endpoint(flow, **rules)(join), methods=["POST"])
    return app


every_way = pytest.mark.parametrize(
    "make",
    [fast, class_of_route, dependency, reading, included, mounted, task, middleware, overridden, plain],
    ids=lambda make: make.__name__,
)


def make_flow(make: Any) -> Flow:
    return forked(Pass() if make is reading else Join())


def arriving(flow: Flow) -> tuple[int, int]:
    """Count the bodies that are arriving, and their bytes on the heap: looks inside."""
    engine = engine_of(flow)
    return len(engine.memory.arrivals), engine.memory.arrivals.held


async def begin(connection: Connection, make: Any, *headers: str, body: bytes = b"") -> None:
    """Send a request, or the beginning of one."""
    await connection.send("/join/?a=1" if make is mounted else "/join?a=1", JSON, *headers, body=body)


async def status(connection: Connection) -> int:
    return int((await connection.read_head()).split()[1])


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


@every_way
async def test_the_guards(make: Any) -> None:
    """They let pass what is allowed and refuse what is not, whichever way a body takes; one server for both."""
    flow = make_flow(make)
    limits = UploadLimits(idle_timeout=1, max_uploads=2, max_pending_bytes=50_000)
    async with serving(make(flow, {"max_body_size": LIMIT, "upload_limits": limits})) as http:
        await send_what_is_allowed(http, flow, make)
        await send_what_is_not(http, flow, make)


async def send_what_is_allowed(http: httpx.AsyncClient, flow: Flow, make: Any) -> None:
    """It is read as without guards: at once or in chunks, with or without a Content-Length; then the counts are 0."""
    for body in (BODY, BODY.ljust(LIMIT)):
        async with Connection(http) as connection:
            await begin(connection, make, f"Content-Length: {len(body)}", body=body)
            assert await status(connection) == 200
        async with Connection(http) as connection:
            await begin(connection, make, f"Content-Length: {len(body)}", body=body[:7])
            await eventually(lambda: arriving(flow) == (1, 7))
            await connection.send_more(body[7:])
            assert await status(connection) == 200 and arriving(flow) == (0, 0)
    async with Connection(http) as connection:
        await begin(connection, make, "Transfer-Encoding: chunked")
        await connection.send_more(chunk(BODY[:7]))
        await eventually(lambda: arriving(flow) == (1, 7))
        await connection.send_more(chunk(BODY[7:]) + b"0\r\n\r\n")
        assert await status(connection) == 200 and arriving(flow) == (0, 0)


async def send_what_is_not(http: httpx.AsyncClient, flow: Flow, make: Any) -> None:
    """413 by the head, before the client is asked to go on, and where the limit is passed; 408; 503 for too many."""
    async with Connection(http) as connection:
        await begin(connection, make, f"Content-Length: {LIMIT + 1}", "Expect: 100-continue")
        assert await status(connection) == 413
    async with Connection(http) as connection:
        await begin(connection, make, "Transfer-Encoding: chunked", body=chunk(BODY.ljust(LIMIT)))
        await eventually(lambda: arriving(flow) == (1, LIMIT))
        await connection.send_more(chunk(b" "))
        assert await status(connection) == 413
    async with Connection(http) as connection:
        await begin(connection, make, "Transfer-Encoding: chunked", body=chunk(b" " * (LIMIT + 1)) + b"0\r\n\r\n")
        assert await status(connection) == 413
    async with Connection(http) as first, Connection(http) as second, Connection(http) as third:
        await begin(first, make, "Content-Length: 900", body=b"{")
        await begin(second, make, "Content-Length: 900", body=b"{")
        await eventually(lambda: arriving(flow) == (2, 2))
        await begin(third, make, "Content-Length: 900", body=b"{")
        head = await third.read_head()
        assert " 503 " in head.splitlines()[0] and "retry-after: 1" in head.lower()
        for connection in (first, second):
            head = await connection.read_head()
            assert " 408 " in head.splitlines()[0] and "connection: close" in head.lower()
            assert b"too slowly" in await connection.read_body()
    await eventually(lambda: arriving(flow) == (0, 0))


async def test_a_message_that_says_what_is_allowed() -> None:
    """In the form of every error of FastAPI."""
    flow = forked(Join())
    async with serving(fast(flow, {"max_body_size": LIMIT})) as http:
        answer = await http.post("/join", content=b" " * (LIMIT + 1), headers={"content-type": "application/json"})
        assert answer.json() == {"detail": f"The body may have at most {LIMIT} bytes."}


@pytest.mark.parametrize("make", [fast, dependency], ids=lambda make: make.__name__)
async def test_a_client_that_is_too_slow(make: Any) -> None:
    """It is never idle, and slower than the least rate."""
    flow = forked(Join())
    async with serving(make(flow, {"upload_limits": UploadLimits(idle_timeout=DEADLINE, grace=0.3)})) as http:
        async with Connection(http) as connection:
            await begin(connection, make, "Content-Length: 100000")
            answer = asyncio.create_task(status(connection))
            while not answer.done():
                await connection.send_more(b" ")
                await asyncio.wait([answer], timeout=0.02)
            assert await answer == 408
        await eventually(lambda: arriving(flow) == (0, 0))


async def test_too_many_bytes() -> None:
    """They wait for a place as uploads do, and are refused when there is none in time; what leaves makes room."""
    flow = forked(Join())
    limits = UploadLimits(max_pending_bytes=50_000)
    async with serving(fast(flow, {"upload_limits": limits, "timeout_sec": 0.5})) as http:
        async with Connection(http) as second:
            async with Connection(http) as first:
                await begin(first, fast, "Content-Length: 90000", body=b"{" * 40_000)
                await eventually(lambda: arriving(flow) == (1, 40_000))
                await begin(second, fast, "Content-Length: 90000", body=b"{" * 20_000)
                assert await status(second) == 503
            await eventually(lambda: arriving(flow) == (0, 0))


async def test_together_with_uploads() -> None:
    """One count for both."""
    flow = forked(Pass())
    app = FastAPI(lifespan=Aqueduct(flow, upload_limits=UploadLimits(max_uploads=1)).lifespan)
    app.post("/join")(flow_endpoint(flow)(join))

    @app.post("/total")
    @flow_endpoint(flow)
    async def total(task: Picture) -> int:
        return task.total

    async with serving(app) as http:
        async with Connection(http) as one:
            await begin(one, fast, "Content-Length: 1000", body=b"{")
            await eventually(lambda: arriving(flow) == (1, 1))
            assert (await http.post("/total", content=b"x")).status_code == 503
        await eventually(lambda: arriving(flow) == (0, 0))
        async with Connection(http) as one, Connection(http) as two:
            await one.send("/total", "Content-Length: 1000", body=b"x")
            await eventually(lambda: arriving(flow) == (1, 1))
            await begin(two, fast, "Content-Length: 1000", body=b"{")
            assert await status(two) == 503


async def test_which_limit() -> None:
    """The endpoint's, else FastAPI's, else that of `Aqueduct`, else the default."""
    flow = forked(Join())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    app.post("/default")(flow_endpoint(flow)(join))
    app.post("/fastapi", max_body_size=3000)(flow_endpoint(flow)(join))
    app.post("/smaller", max_body_size=3000)(flow_endpoint(flow, max_body_size=2000)(join))
    app.post("/larger", max_body_size=3000)(flow_endpoint(flow, max_body_size=4000)(join))
    app.post("/dependency", max_body_size=3000, dependencies=[Depends(lambda: None)])(flow_endpoint(flow)(join))
    second = FastAPI(lifespan=Aqueduct(flow, upload_limits=UploadLimits(max_body_size=1000)).lifespan)
    second.post("/default")(flow_endpoint(flow)(join))
    cases = [(app, "/default", 64 * MIB), (app, "/fastapi", 3000), (app, "/smaller", 2000), (app, "/larger", 3000)]
    for application, path, limit in [*cases, (app, "/dependency", 3000), (second, "/default", 1000)]:
        async with serving(application) as http:
            for size, expected in ((limit, 100), (limit + 1, 413), (200 * MIB, 413)):
                async with Connection(http) as connection:
                    await connection.send(path, JSON, f"Content-Length: {size}", "Expect: 100-continue")
                    assert await status(connection) == expected, (path, size)


@pytest.mark.parametrize("make", [fast, dependency, plain], ids=lambda make: make.__name__)
async def test_an_application_that_answers_itself(make: Any) -> None:
    """Its handler is called with the exception, and not with FastAPI's own for a body that cannot be read."""
    flow = forked(Join())
    app = make(flow, {"max_body_size": LIMIT, "upload_limits": UploadLimits(idle_timeout=1, max_uploads=1)})
    seen = []

    async def answer(request: Request, exc: Exception) -> JSONResponse:
        seen.append(f"{type(exc).__name__}: {exc}")
        return JSONResponse("ours", 418)

    app.add_exception_handler(AqueductError, answer)
    async with serving(app) as http:
        async with Connection(http) as one, Connection(http) as two, Connection(http) as three:
            await begin(one, make, f"Content-Length: {LIMIT + 1}")
            assert await status(one) == 418
            await begin(two, make, "Content-Length: 10", body=b"{")
            await eventually(lambda: arriving(flow) == (1, 1))
            await begin(three, make, "Content-Length: 10", body=b"{")
            assert await status(three) == 418
            assert await status(two) == 418
    assert [message.partition(":")[0] for message in seen] == ["BodyTooLarge", "Overloaded", "BodyTooSlow"]
    assert seen[0] == f"BodyTooLarge: The body may have at most {LIMIT} bytes."


async def test_other_kinds_of_bodies() -> None:
    """Fields of a form, and what is no JSON, which FastAPI reads all the same."""
    flow = forked(Adder())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/form")
    @flow_endpoint(flow, max_body_size=1000)
    async def form(task: Sum, name: Annotated[str, Form()]) -> str:
        return name

    @app.post("/json")
    @flow_endpoint(flow, max_body_size=1000)
    async def text(task: Sum, order: Order) -> str:
        return order.words[0]

    async with serving(app) as http:
        for path, kind in (
            ("/form", "application/x-www-form-urlencoded"),
            ("/form", "multipart/form-data; boundary=b"),
            ("/json", "application/merge-patch+json"),
            ("/json", "text/plain"),
        ):
            async with Connection(http) as connection:
                await connection.send(f"{path}?a=1", f"Content-Type: {kind}", "Content-Length: 1001")
                assert await status(connection) == 413
        assert (await http.post("/form?a=1", data={"name": "n"})).json() == "n"


async def test_other_endpoints() -> None:
    """They are left alone: a plugin does not surprise its host."""
    flow = forked(Join())
    limits = UploadLimits(max_body_size=10, idle_timeout=0.1)
    app = FastAPI(lifespan=Aqueduct(flow, upload_limits=limits).lifespan)

    @app.post("/own")
    async def own(order: Order) -> int:
        return len(order.words)

    @app.post("/drive")
    async def drive(order: Order, flow: FlowDep) -> int:
        return len(order.words)

    async with serving(app) as http:
        for path in ("/own", "/drive"):
            async with Connection(http) as connection:
                await connection.send(path, JSON, f"Content-Length: {len(BODY)}", body=BODY[:5])
                await asyncio.sleep(0.3)  # idle for longer than a guard would have it
                await connection.send_more(BODY[5:])
                assert await status(connection) == 200


async def peek(request: Request) -> None:
    async for _ in request.stream():
        return


async def test_an_endpoint_that_answers_before_it_has_read_all() -> None:
    """Its body is not counted any more."""
    flow = forked(Adder())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    app.post("/sum", dependencies=[Depends(peek)])(flow_endpoint(flow)(add))
    async with serving(app) as http, Connection(http) as connection:
        await connection.send("/sum?a=1", "Content-Length: 1000", body=b"x")
        assert await status(connection) == 200
        await eventually(lambda: arriving(flow) == (0, 0))


async def test_a_client_that_leaves() -> None:
    """It is not counted any more."""
    flow = forked(Join())
    async with serving(fast(flow, {})) as http:
        async with Connection(http) as connection:
            await begin(connection, fast, "Content-Length: 1000", body=b"{")
            await eventually(lambda: arriving(flow) == (1, 1))
        await eventually(lambda: arriving(flow) == (0, 0))
