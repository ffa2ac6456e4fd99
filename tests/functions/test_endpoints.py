"""Ordinary endpoints that call functions in workers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.responses import Response
from starlette.routing import Route

from fastapi_aqueduct import Aqueduct, TaskTimeout
from fastapi_aqueduct.asgi.uvicorn import transport_of
from fastapi_aqueduct.testing import client, inline

from ..asgi.support import Connection, serving
from ..support import eventually
from .functions import behave, halve_in_worker, repeat

impatient = behave.with_options(timeout_sec=0.05)


def own_answer(request: Request, exc: Exception) -> PlainTextResponse:
    return PlainTextResponse("own", 418)


def make_application(**options: Any) -> FastAPI:
    async def plain(request: Request) -> Response:
        return JSONResponse(await impatient("wait", 0.1))

    app = FastAPI(lifespan=Aqueduct(behave, repeat).lifespan, routes=[Route("/plain", plain)], **options)
    seen: list[str] = []
    app.state.seen = seen

    @app.get("/late")
    async def late() -> None:
        await impatient("wait", 0.1)

    @app.get("/late-in-thread")
    def late_in_thread() -> None:
        impatient.blocking("wait", 0.1)

    @app.get("/raise")
    async def fail() -> None:
        await behave("raise")

    @app.post("/wait")
    async def wait(how: dict[str, float]) -> None:
        await note_end(behave("wait", how["seconds"]), seen)

    @app.get("/wait")
    def wait_in_thread() -> None:
        seen.append("begun")
        try:
            behave.blocking("wait", 1)
        except BaseException as exc:
            seen.append(type(exc).__name__)
            raise

    @app.get("/later")
    async def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(note_end, behave.with_options(timeout_sec=30)("wait", 0.3), seen)

    @app.get("/connection")
    async def connection(request: Request) -> bool:
        return transport_of(request.receive) is not None and await request.body() == b""

    @app.get("/stream")
    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(repeat.stream(3))

    @app.get("/cut")
    async def cut() -> StreamingResponse:
        async def items() -> Any:
            yield "begun"
            await impatient("wait", 0.1)

        return StreamingResponse(items())

    return app


async def note_end(call: Any, seen: list[str]) -> None:
    seen.append("begun")
    try:
        await call
        seen.append("done")
    except BaseException as exc:
        seen.append(type(exc).__name__)
        raise


async def test_errors_of_a_flow_are_answers() -> None:
    """As with flow_endpoint; exceptions of the function are the application's, and so are those that it handles."""
    app = make_application()
    async with client(app, raise_app_exceptions=False) as http:
        for path in ("/late", "/late-in-thread", "/plain"):
            response = await http.get(path)
            assert response.status_code == 504
            assert "not finished in time" in response.text
        assert (await http.get("/raise")).status_code == 500
        assert (await http.get("/stream")).text == "aba"
        assert (await http.get("/cut")).text in ("begun", "Internal Server Error")

    app = make_application(exception_handlers={TaskTimeout: own_answer})
    async with inline(behave), inline(repeat), client(app) as http:
        assert (await http.get("/late")).text == "own"


async def test_a_function_is_an_endpoint_or_a_dependency_itself() -> None:
    app = FastAPI(lifespan=Aqueduct(behave, halve_in_worker).lifespan)
    app.get("/behave")(behave)

    @app.get("/half")
    async def half(number: Annotated[float, Depends(halve_in_worker)]) -> float:
        return number

    async with inline(behave), inline(halve_in_worker), client(app) as http:
        assert (await http.get("/behave?how=well&seconds=0")).json() == "well"
        assert (await http.get("/half?number=3")).json() == 1.5
        operation = app.openapi()["paths"]["/half"]["get"]
        assert [(item["name"], item["schema"]["type"]) for item in operation["parameters"]] == [("number", "number")]


async def test_a_client_that_leaves_withdraws_its_call() -> None:
    app = make_application()
    seen: list[str] = app.state.seen
    body = b'{"seconds": 1}'
    headers = f"Content-Length: {len(body)}", "Content-Type: application/json"
    async with serving(app) as http:
        async with Connection(http) as connection:
            await connection.send("/wait", *headers, body=body)
            await eventually(lambda: seen == ["begun"])
        await eventually(lambda: seen == ["begun", "ClientDisconnect"])
        seen.clear()
        async with Connection(http) as connection:
            await connection.send("/wait", method="GET")
            await eventually(lambda: seen == ["begun"])
        await eventually(lambda: seen == ["begun", "ClientDisconnect"])
        seen.clear()
        async with Connection(http) as connection:
            await connection.send("/later", method="GET")
            await connection.read_head()
        await eventually(lambda: seen == ["begun", "done"])
        assert (await http.get("/connection")).json() is True
