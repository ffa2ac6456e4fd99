"""The flows run with the application, through whichever door they were put in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from fastapi_aqueduct import (
    Aqueduct,
    ConfigurationError,
    Flow,
    FlowDep,
    StartError,
    flow_endpoint,
)
from fastapi_aqueduct.flow import FlowState
from fastapi_aqueduct.testing import client

from ..support import forked
from .handlers import Adder, Hold, NoModel, Sum
from .support import bare_client, serving


def add_route(app: FastAPI | APIRouter, flow: Flow) -> None:
    @app.get("/sum")
    @flow_endpoint(flow)
    async def answer(task: Sum) -> int:
        return task.result


def by_lifespan(aqueduct: Aqueduct) -> FastAPI:
    return FastAPI(lifespan=aqueduct.lifespan)


def by_install(aqueduct: Aqueduct) -> FastAPI:
    app = FastAPI()
    assert aqueduct.install(app) is aqueduct
    return app


def by_run(aqueduct: Aqueduct) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with aqueduct.run(app):
            yield

    return FastAPI(lifespan=lifespan)


def by_composition(aqueduct: Aqueduct) -> FastAPI:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"own": 1}

    @asynccontextmanager
    async def combined(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            states = [await stack.enter_async_context(lifespan(app)) for lifespan in (own, aqueduct.lifespan)]
            yield {key: value for state in states for key, value in state.items()}

    return FastAPI(lifespan=combined)


def by_router(aqueduct: Aqueduct) -> FastAPI:
    app = FastAPI()
    app.include_router(APIRouter(lifespan=aqueduct.lifespan))
    return app


def by_all(aqueduct: Aqueduct) -> FastAPI:
    app = by_run(aqueduct)
    aqueduct.install(app)
    aqueduct.install(app)
    app.include_router(APIRouter(lifespan=aqueduct.lifespan))
    aqueduct.install(app)
    return app


DOORS = [by_lifespan, by_install, by_run, by_composition, by_router, by_all]


@pytest.mark.parametrize("door", DOORS)
async def test_the_flow_runs_with_the_application(door: Any) -> None:
    """Through each door, and all at once, it starts, answers, is probed, and stops."""
    flow = forked(Adder())
    app = door(Aqueduct(flow))
    add_route(app, flow)
    for _ in range(2):
        async with client(app) as http:
            assert (await http.get("/sum?a=3")).json() == 13
            assert (await http.get("/ready")).status_code == 200
            assert len(flow.statistics().steps[0].workers) == 1
        assert flow.state is FlowState.STOPPED


async def test_under_a_server() -> None:
    """uvicorn runs the lifespan and the requests."""
    flow = forked(Adder())
    app = by_lifespan(Aqueduct(flow))
    add_route(app, flow)
    async with serving(app) as http:
        assert (await http.get("/sum", params={"a": 1, "b": 2})).json() == 3
    assert flow.state is FlowState.STOPPED


def test_under_the_test_client_of_starlette() -> None:
    """It runs the application in an event loop of its own, a new one each time."""
    flow = forked(Adder())
    app = by_install(Aqueduct(flow))
    add_route(app, flow)
    for _ in range(2):
        with TestClient(app) as http:
            assert http.get("/sum?a=3").json() == 13


async def test_lifespan_entered_twice_in_parallel() -> None:
    """Two applications that share the flows: they run until the last one ends, whichever that is."""
    flow = forked(Adder())
    aqueduct = Aqueduct(flow)
    first, second = FastAPI(), Starlette()
    one, two = aqueduct.lifespan(first), aqueduct.lifespan(second)
    assert (await one.__aenter__())["aqueduct"] is aqueduct
    await two.__aenter__()
    await one.__aexit__(None, None, None)
    assert flow.is_running
    await two.__aexit__(None, None, None)
    assert flow.state is FlowState.STOPPED


async def test_install_starts_before_the_applications_own_lifespan() -> None:
    """So that start-up code may process a task; and the state of both reaches the requests."""
    flow = forked(Adder())
    aqueduct = Aqueduct(flow)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, int]]:
        yield {"warm": (await flow.process(Sum(1, 2))).result}

    app = FastAPI(lifespan=lifespan)
    aqueduct.install(app)

    @app.get("/")
    async def answer(request: Request) -> list[Any]:
        return [request.state.warm, request.state.aqueduct is aqueduct]

    async with client(app) as http:
        assert (await http.get("/")).json() == [3, True]


async def test_plain_starlette() -> None:
    """All of it works without FastAPI in the path of a request."""
    flow = forked(Adder())
    aqueduct = Aqueduct(flow)

    async def answer(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse(str((await flow.process(Sum(1, 2))).result))

    app = Starlette(routes=[Route("/", answer)])
    aqueduct.install(app)
    async with client(app) as http:
        assert (await http.get("/")).text == "3"
        assert (await http.get("/ready")).status_code == 200


async def test_several_flows_with_one_name() -> None:
    """Each is started, probed, measured and stopped."""
    adder, holder = forked(Adder()), forked(Hold())
    app = by_lifespan(Aqueduct(adder, holder))
    add_route(app, adder)
    async with client(app) as http:
        assert holder.is_running
        assert (await http.get("/sum?a=3")).json() == 13
        assert [step["step"] for step in (await http.get("/ready")).json()["steps"]] == ["step1_Adder", "step1_Hold"]
    assert adder.state is holder.state is FlowState.STOPPED


async def test_a_flow_that_runs_already_is_not_stopped() -> None:
    """Who started it stops it."""
    async with forked(Adder()) as flow:
        app = by_lifespan(Aqueduct(flow))
        add_route(app, flow)
        async with client(app) as http:
            assert (await http.get("/sum?a=3")).json() == 13
        assert flow.is_running


@pytest.mark.parametrize("order", [1, -1])
async def test_a_failure_to_start_comes_out_of_the_lifespan(order: int) -> None:
    """With the worker's own traceback, and with nothing left running; afterwards the application may try again."""
    good, bad = forked(Adder()), forked(NoModel())
    aqueduct = Aqueduct(*[good, bad][::order])
    for _ in range(2):
        with pytest.raises(StartError) as caught:
            async with aqueduct.run(FastAPI()):
                pytest.fail("it started")
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        assert "handlers.py" in str(caught.value.__cause__.__cause__)
        assert good.state is bad.state is FlowState.STOPPED


async def test_a_mounted_application_uses_the_flows_of_the_outer_one() -> None:
    """Its own lifespan is never run; the flow is found all the same, through the state and without."""
    flow = forked(Adder())
    inner = FastAPI()
    add_route(inner, flow)

    @inner.get("/name")
    async def name(flow: FlowDep) -> str:
        return flow.name

    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    app.mount("/inner", inner)
    async with client(app) as http:
        assert (await http.get("/inner/sum?a=3")).json() == 13
        assert (await http.get("/inner/name")).json() == "flow"
        async with bare_client(app) as bare:
            assert (await bare.get("/inner/name")).json() == "flow"


@pytest.mark.parametrize("is_mounted", [False, True])
async def test_a_lifespan_that_never_ran(is_mounted: bool) -> None:
    """An error that names the fix, not a request to come back later."""
    flow = forked(Adder())
    inner = FastAPI(lifespan=Aqueduct(flow).lifespan)
    add_route(inner, flow)

    @inner.get("/name")
    async def name(flow: FlowDep) -> str:
        return flow.name

    app: Any = FastAPI() if is_mounted else inner
    prefix = "/inner" if is_mounted else ""
    if is_mounted:
        app.mount("/inner", inner)
    async with bare_client(app) as http:
        for path in ("/sum?a=3", "/name"):
            with pytest.raises(RuntimeError, match=r"lifespan=aqueduct\.lifespan"):
                await http.get(prefix + path)


def test_no_flows_or_one_twice() -> None:
    """Refused where it is written."""
    flow = forked(Adder())
    for flows in ((), (flow, flow)):
        with pytest.raises(ConfigurationError):
            Aqueduct(*flows)
