"""Applications whose endpoints cannot work: refused where they are written, else when the application starts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute

from fastapi_aqueduct import (
    Aqueduct,
    BaseTask,
    ConfigurationError,
    Flow,
    FlowDep,
    FlowStep,
    FlowTask,
    Upload,
    flow_endpoint,
)
from fastapi_aqueduct.testing import client, inline

from ..asgi.handlers import Adder, Sum
from ..handlers import Each


def refused(words: str, error: type[Exception] = ConfigurationError) -> Any:
    return pytest.raises(error, match=f"^{re.escape(words)}$")


async def start(app: Any) -> None:
    async with client(app):
        pytest.fail("it started")


# Flows


def test_what_aqueduct_is_given() -> None:
    cases: list[tuple[Any, str]] = [
        (Flow, "got the class Flow; make one: Aqueduct(Flow(...))"),
        (FlowStep(Each()), "got FlowStep(Each, nprocs=1, batch_size=1, batch_timeout=0.0)"),
        ("flow", "got 'flow'"),
    ]
    for given, words in cases:
        with pytest.raises(ConfigurationError, match=f"^Aqueduct needs flows, {re.escape(words)}"):
            Aqueduct(given)
    handler: Any = Each()
    with refused(f"Aqueduct needs flows, got {handler!r}; wrap it in a flow: Aqueduct(Flow(Each(...)))"):
        Aqueduct(handler)


async def ocr(task: Sum) -> int:
    return task.result


def test_flow_endpoint_without_its_flow() -> None:
    words = "@flow_endpoint needs its flow, got {}; write @flow_endpoint(flow)"
    bare: Any = ocr
    with refused(words.format("the function ocr") + " above the function", TypeError):
        flow_endpoint(bare)
    handler: Any = Each()
    with refused(words.format(repr(handler)), TypeError):
        flow_endpoint(handler)
    flow: Any = Flow
    with refused(words.format("the class Flow"), TypeError):
        flow_endpoint(flow)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'flow'"):
        flow_endpoint()  # type: ignore[call-arg]
    with refused(f"FlowTask needs its flow, got {handler!r}; write FlowTask(flow)", TypeError):
        FlowTask(handler)


def app_with(flow: Flow, kind: str) -> FastAPI | Starlette:
    app, router, inner = FastAPI(), APIRouter(prefix="/in"), FastAPI()
    endpoint = flow_endpoint(flow)(ocr)
    if kind == "starlette":
        return Starlette(routes=[Mount("/in", routes=[Route("/sum", endpoint)])])
    if kind == "task":

        async def by_hand(task: Sum) -> None: ...

        # As text, it would be looked up outside this function.
        by_hand.__annotations__["task"] = Annotated[Sum, FlowTask(flow)]
        app.get("/in/sum")(by_hand)
    router.get("/sum")(endpoint)
    if kind == "router":
        app.include_router(router, prefix="/v1")
    if kind == "mounted":
        inner.get("/sum")(endpoint)
        app.mount("/in", inner)
    return app


@pytest.mark.parametrize("kind", ["router", "mounted", "task", "starlette"])
async def test_a_flow_that_was_not_given(kind: str) -> None:
    """However deep its endpoint stands; nothing has been started then."""
    one, two, other = (Flow(Adder(), name=name) for name in ("a", "b", "other"))
    app = app_with(other, kind)
    path = {"router": "/v1/in/sum", "mounted": "/sum"}.get(kind, "/in/sum")
    Aqueduct(one, two).install(app)
    with pytest.raises(ConfigurationError) as caught:
        await start(app)
    assert str(caught.value) == (
        f"flow other was not given to Aqueduct(a, b): the endpoint at {path} needs <Flow other stopped: step1_Adder>"
    )
    assert not one.is_running


async def test_a_flow_of_another_aqueduct_or_that_runs_already() -> None:
    """It is known: two may serve one application, and a flow may be started by hand."""
    one, two = Flow(Adder(), name="one"), Flow(Adder(), name="two")
    by_hand = Flow(Adder(), name="by hand")
    first, second = Aqueduct(one), Aqueduct(two)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with by_hand, first.run(app), second.run(app):
            yield

    app = FastAPI(lifespan=lifespan)
    for flow in (one, two, by_hand):
        app.get(f"/{flow.name.replace(' ', '')}")(flow_endpoint(flow)(ocr))
    async with client(app) as http:
        for name in ("one", "two", "byhand"):
            assert (await http.get(f"/{name}?a=1")).json() == 11


# Websockets


async def sums(socket: WebSocket, task: Sum) -> None: ...


USE = "use FlowDep: take `flow: FlowDep` and call `await flow.process(task)`, or iterate over `flow.stream(task)`"


def test_flow_endpoint_with_a_websocket() -> None:
    with refused(f"sums takes a WebSocket, but flow_endpoint is for HTTP requests; {USE}", TypeError):
        flow_endpoint(Flow(Adder()))(sums)


async def by_hand(socket: WebSocket, task: Annotated[Sum, FlowTask()]) -> None: ...


async def right(socket: WebSocket, flow: FlowDep) -> None:
    await socket.accept()
    await socket.send_json((await flow.process(Sum(1, 2))).result)


@pytest.mark.parametrize("kind", ["endpoint", "task", "starlette"])
async def test_a_task_of_a_websocket(kind: str) -> None:
    """It is found when the application starts, where the function does not show it."""
    flow = Flow(Adder())
    app: Any = FastAPI()
    if kind == "starlette":
        app = Starlette(routes=[WebSocketRoute("/sums", flow_endpoint(flow)(ocr))])
    else:
        app.websocket("/sums")(flow_endpoint(flow)(ocr) if kind == "endpoint" else by_hand)
    Aqueduct(flow).install(app)
    with pytest.raises(ConfigurationError) as caught:
        await start(app)
    assert str(caught.value).endswith(f" at /sums: an endpoint of a websocket cannot get a task of its request; {USE}")


# Tasks as ordinary parameters


@dataclass
class Point(BaseTask):
    """A task that pydantic can read."""

    a: int
    b: int = 10
    result: int = field(default=0, init=False)


@dataclass
class Page(BaseTask):
    """A task that pydantic cannot read."""

    image: Upload


PLAIN = (
    "{0} is a task, which FastAPI cannot read from a request by itself: put @flow_endpoint(flow) directly above the "
    "function, below @app.post(...), or declare the parameter as `Annotated[{0}, FlowTask()]`; to respond with "
    "fields of a task, return a model that has them"
)


async def plain(task: Sum) -> None: ...
async def plain_page(task: Page) -> None: ...
async def without_parentheses(task: Annotated[Sum, FlowTask]) -> None: ...
async def in_a_list(tasks: list[Sum]) -> None: ...
async def as_answer() -> Sum:
    raise NotImplementedError


@pytest.mark.parametrize("function", [plain, plain_page, without_parentheses, in_a_list, as_answer])
def test_a_task_as_an_ordinary_parameter_or_answer(function: Any) -> None:
    name = "Page" if function is plain_page else "Sum"
    with refused(PLAIN.format(name)):
        FastAPI().post("/")(function)


def test_decorators_in_the_wrong_order() -> None:
    app = FastAPI()
    with refused(PLAIN.format("Sum")):

        @flow_endpoint(Flow(Adder()))
        @app.post("/")
        async def answer(task: Sum) -> None: ...


async def test_a_dataclass_as_an_ordinary_parameter() -> None:
    """Pydantic can read it, so it is found when the application starts."""
    flow = Flow(Adder())
    app = FastAPI()

    @flow_endpoint(flow)
    @app.post("/")
    async def answer(task: Point) -> int:
        return task.result

    Aqueduct(flow).install(app)
    with refused(PLAIN.format("Point")):
        await start(app)


async def test_a_dataclass_as_an_answer() -> None:
    """It is written as FastAPI writes any dataclass, with the fields that the handlers have set."""
    flow = Flow(Adder())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/sum")
    @flow_endpoint(flow)
    async def answer(task: Point) -> Point:
        return task

    with inline(flow):
        async with client(app) as http:
            assert (await http.get("/sum?a=1")).json() == {"a": 1, "b": 10, "result": 11}
