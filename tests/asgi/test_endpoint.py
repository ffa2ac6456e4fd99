"""A function that sees finished tasks is an ordinary endpoint."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import JSONResponse as StarletteResponse
from starlette.routing import Route

from fastapi_aqueduct import (
    Aqueduct,
    BaseTask,
    ConfigurationError,
    Flow,
    TaskTimeout,
    Upload,
    flow_endpoint,
)
from fastapi_aqueduct.asgi.dependencies import GivenFlow
from fastapi_aqueduct.asgi.errors import ANSWERS, find_answer
from fastapi_aqueduct.exceptions import Overloaded, TenantOverShare
from fastapi_aqueduct.testing import client

from ..handlers import Gate
from ..support import eventually, forked
from .handlers import Add, Adder, BadPicture, Case, Held, Hold, Picture, Suffer, Sum
from .json_handlers import Join, Order, Text
from .support import serving


class Result(BaseModel):
    """What a client sees of a sum."""

    result: int


class Everything(BaseTask):
    """A task with parameters from everywhere."""

    def __init__(
        self,
        item: int,
        tags: Annotated[list[str], Query()],
        x_user: Annotated[str, Header()],
        limit: int = Query(5, le=9),
        flag: bool = False,
    ) -> None:
        super().__init__()
        self.given = [item, tags, x_user, limit, flag]
        self.a = self.b = self.result = 0


async def test_parameters_of_the_task_come_from_the_request() -> None:
    """From the path, the query and the headers, with metadata and defaults, validated by FastAPI."""
    flow = forked(Adder())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/items/{item}")
    @flow_endpoint(flow, timeout_sec=60)  # with the task the worker imports this module, and with it FastAPI
    async def items(task: Everything, item: int, other: str = "none") -> list[Any]:
        return [*task.given, item, other]

    async with client(app) as http:
        response = await http.get("/items/7?tags=a&tags=b&flag=yes&other=o", headers={"x-user": "me"})
        assert response.json() == [7, ["a", "b"], "me", 5, True, 7, "o"]
        response = await http.get("/items/x?tags=a&limit=10&flag=perhaps")
        assert response.status_code == 422
        places = {tuple(error["loc"]) for error in response.json()["detail"]}
        assert places == {("path", "item"), ("query", "limit"), ("query", "flag"), ("header", "x-user")}


def current_user() -> Iterator[str]:
    yield "me"


async def test_the_function_is_fastapis_as_always() -> None:
    """Dependencies, the request, the response model, prefixes and ``def`` functions work."""
    flow = forked(Adder())
    aqueduct = Aqueduct(flow)
    router = APIRouter(prefix="/v1")
    threads: list[int] = []

    @router.get("/sum", response_model=Result)
    @flow_endpoint(flow)
    def answer(request: Request, task: Sum, user: Annotated[str, Depends(current_user)]) -> Any:
        """Add two numbers."""
        threads.append(threading.get_ident())
        return {"result": task.result, "secret": user, "path": request.url.path}

    app = FastAPI(lifespan=aqueduct.lifespan)
    app.include_router(router)
    assert (answer.__name__, answer.__doc__) == ("answer", "Add two numbers.")
    async with client(app) as http:
        assert (await http.get("/v1/sum?a=1")).json() == {"result": 11}
    assert threads != [threading.get_ident()]


async def test_json_body() -> None:
    """A pydantic model in the constructor is the JSON body, as in any endpoint."""
    flow = forked(Join())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/join")
    @flow_endpoint(flow)
    async def join(task: Text) -> str:
        return task.text

    async with client(app) as http:
        assert (await http.post("/join", json={"words": ["a", "b"], "times": 2})).json() == "a b a b"
        response = await http.post("/join", json={"words": "a"})
        assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", "words"])
        assert (await http.post("/join", content=b"{", headers={"content-type": "application/json"})).status_code == 422
        schema = (await http.get("/openapi.json")).json()["paths"]["/join"]["post"]
    assert schema["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Order"}
    assert {"422", "503", "504"} < set(schema["responses"])


async def test_plain_starlette_route() -> None:
    """Parameters come from the path and the query, a model from the body; the function returns a response."""
    adder, joiner, summer = forked(Adder()), forked(Join()), forked(Add())

    @flow_endpoint(adder)
    async def add(request: Request, task: Sum, times: int = 1, names: list[str] = []) -> StarletteResponse:  # noqa: B006
        return StarletteResponse([task.result * times, names, request.method])

    @flow_endpoint(joiner)
    def join(task: Text) -> StarletteResponse:
        return StarletteResponse(task.text)

    @flow_endpoint(summer)
    async def total(task: Picture) -> StarletteResponse:
        return StarletteResponse(task.total)

    routes = [
        Route("/add/{a}", add),
        Route("/join", join, methods=["POST"]),
        Route("/total", total, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=Aqueduct(adder, joiner, summer).lifespan)
    async with client(app) as http:
        assert (await http.get("/add/3?times=2&names=x&names=y")).json() == [26, ["x", "y"], "GET"]
        response = await http.get("/add/three")
        assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["path", "a"])
        assert (await http.post("/join", json={"words": ["a", "b"]})).json() == "a b"
        assert (await http.post("/join", json={"words": 1})).json()["detail"][0]["loc"] == ["body", "words"]
        assert (await http.post("/join")).json()["detail"][0]["type"] == "missing"
        assert (await http.post("/total?factor=2", content=b"\1\2")).json() == 6
        assert (await http.post("/total", files={"image": b"\1\2"})).json() == 3
        assert (await http.post("/total")).status_code == 422
        assert (await http.post("/total?factor=0", content=b"\1")).status_code == 422


async def test_the_flow_can_be_replaced_in_tests() -> None:
    """Through FastAPI's own overrides."""
    flow, other = forked(Adder(), name="one"), forked(Adder(), name="other")
    app = FastAPI(lifespan=Aqueduct(other).lifespan)

    @app.get("/sum")
    @flow_endpoint(flow)
    async def answer(task: Sum) -> int:
        return task.result

    app.dependency_overrides[GivenFlow(flow)] = lambda: other
    async with client(app) as http:
        assert (await http.get("/sum?a=1")).json() == 11


# What cannot work is refused where it is written


def test_generators_without_a_stream_are_refused() -> None:
    """With a word on what to use instead."""

    async def stream(task: Sum) -> AsyncIterator[int]:
        yield task.result

    def lines(task: Sum) -> Iterator[int]:
        yield task.result

    for function in (stream, lines):
        with pytest.raises(TypeError, match=r"items: FlowStream\[...\]"):
            flow_endpoint(forked(Adder()))(function)


def no_task(number: int) -> None: ...


def two_tasks(one: Sum, two: Sum) -> None: ...


def a_default_body(task: Picture, order: dict[str, int] = Body()) -> None:  # noqa: B008
    ...


class UploadAndModel(BaseTask):
    """Wants the body twice."""

    def __init__(self, one: Upload, two: Order) -> None: ...


def upload_and_model(task: UploadAndModel) -> None: ...


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (no_task, TypeError, "exactly one parameter"),
        (two_tasks, TypeError, "one, two"),
        (a_default_body, ConfigurationError, "order"),
        (upload_and_model, ConfigurationError, "two must come from"),
    ],
)
def test_declarations_that_cannot_work(function: Callable[..., Any], error: type[Exception], words: str) -> None:
    """The message names the function or the task, and the parameter."""
    with pytest.raises(error, match=words):
        flow_endpoint(forked(Adder()))(function)


# Answers to errors


async def test_errors_become_answers(tmp_path: Path) -> None:
    """A full queue, a deadline and a death have their own status; what happened inside stays inside."""
    held, suffering = Flow(Hold(), queue_size=1), Flow(Suffer())
    app = FastAPI(lifespan=Aqueduct(held, suffering).lifespan)
    gate = Gate(tmp_path)

    @app.get("/held")
    @flow_endpoint(held, timeout_sec=30)
    async def hold(task: Held) -> str:
        return "through"

    @app.get("/impatient")
    @flow_endpoint(held, timeout_sec=0.05)
    async def impatient(task: Held) -> None: ...

    @app.get("/case")
    @flow_endpoint(suffering, timeout_sec=60)
    async def case(task: Case) -> None: ...

    async with client(app, raise_app_exceptions=False) as http:
        pending = []
        while held.statistics().steps[0].queued == 0:
            pending.append(asyncio.create_task(http.get("/held", params={"gate": str(tmp_path)})))
            seen = len(pending)
            await eventually(lambda: held.statistics().in_flight == seen)  # noqa: B023
            await eventually(gate.is_entered)
        response = await http.get("/held", params={"gate": str(tmp_path)})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        gate.open()
        assert {(await task).json() for task in pending} == {"through"}

        second = Gate(tmp_path, "second")
        assert (await http.get("/impatient", params={"gate": str(tmp_path), "name": "second"})).status_code == 504
        second.open()

        response = await http.get("/case?fate=raised")
        assert (response.status_code, response.text) == (500, "Internal Server Error")

        response = await http.get("/case?fate=killed")
        assert (response.status_code, "SIGKILL" in response.text) == (503, False)


async def test_a_handlers_exception_is_left_to_the_application_and_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the application maps is no error; what it does not is logged once, with the worker's traceback."""
    flow = forked(Suffer())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/case")
    @flow_endpoint(flow)
    async def case(task: Case) -> None: ...

    @app.exception_handler(BadPicture)
    async def refuse(request: Request, error: BadPicture) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 415)

    async with serving(app) as http:
        response = await http.get("/case?fate=bad")
        assert (response.status_code, response.json()) == (415, {"detail": "there is no picture in it"})
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        response = await http.get("/case?fate=raised")
        assert (response.status_code, response.text) == (500, "Internal Server Error")
    (record,) = [record for record in caplog.records if record.exc_info]
    text = caplog.handler.format(record)
    # In the frames of the exception itself, and in the worker's own text behind it.
    assert text.count('raise ZeroDivisionError("a secret of the worker")') == 2, text


async def test_the_application_may_answer_the_packages_errors_itself(tmp_path: Path) -> None:
    """A handler for one of them comes before the table."""
    flow = forked(Hold())
    gate = Gate(tmp_path)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/case")
    @flow_endpoint(flow, timeout_sec=0.05)
    async def case(task: Held) -> None: ...

    @app.exception_handler(TaskTimeout)
    async def late(request: Request, error: TaskTimeout) -> JSONResponse:
        return JSONResponse({"late": True}, 418)

    async with client(app) as http:
        response = await http.get("/case", params={"gate": str(tmp_path)})
        gate.open()
    assert (response.status_code, response.json()) == (418, {"late": True})


async def test_nothing_is_asked_of_the_flow_for_a_request_that_is_refused() -> None:
    """Dependencies and parameters are judged first."""
    flow = forked(Add())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    def refuse() -> None:
        raise HTTPException(401)

    @app.post("/total", dependencies=[Depends(refuse)])
    @flow_endpoint(flow)
    async def total(task: Picture) -> int:
        return task.total

    sent: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        for number in range(10):
            sent.append(number)
            yield bytes(1000)

    async with client(app) as http:
        assert (await http.post("/total", content=body())).status_code == 401
        assert (await http.post("/total?factor=x", content=body())).status_code == 401
    assert not sent


def test_the_table_knows_the_subclasses() -> None:
    """The most specific row counts, and what is not in it has no answer."""
    assert find_answer(Overloaded("full")) is ANSWERS[Overloaded]
    assert find_answer(TenantOverShare("full")) is ANSWERS[TenantOverShare]
    others = {*Overloaded.__subclasses__()} - {TenantOverShare}
    assert {find_answer(exception("x")) for exception in others} == {ANSWERS[Overloaded]}
    assert find_answer(ValueError("x")) is None
