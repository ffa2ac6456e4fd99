"""Probes tell how the flows are."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from fastapi_aqueduct import Aqueduct, Flow, FlowStep
from fastapi_aqueduct.testing import client

from ..support import eventually, pids
from .handlers import Add, Adder

PATHS = ["/ready", "/live", "/startup"]


async def catch_all(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("caught")(scope, receive, send)


async def statuses(http: Any) -> list[int]:
    return [(await http.get(path)).status_code for path in PATHS]


async def test_answers() -> None:
    """GET and HEAD, never from a cache, one line for each step, and not in the schema."""
    flow = Flow(FlowStep(Add(), nprocs=2), Adder(), name="both")
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    async with client(app) as http:
        for path in PATHS:
            response = await http.get(path)
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            assert response.headers["cache-control"] == "no-store"
            assert response.json() == {
                "status": "ready",
                "steps": [
                    {"flow": "both", "step": "step1_Add", "workers": 2, "ready": 2, "restarts": 0, "queued": 0},
                    {"flow": "both", "step": "step2_Adder", "workers": 1, "ready": 1, "restarts": 0, "queued": 0},
                ],
            }
            assert len([line for line in response.text.splitlines() if "step" in line]) == 3
            assert (await http.head(path)).status_code == 200
            assert (await http.post(path)).status_code == 405
        assert (await http.get("/openapi.json")).json()["paths"] == {}


async def test_a_mount_at_the_root_does_not_hide_them() -> None:
    """Whatever door the flow was put in through, and in whatever order."""
    flow = Flow(Adder())
    aqueduct = Aqueduct(flow)
    late = FastAPI(lifespan=aqueduct.lifespan)
    late.mount("/", catch_all)
    early = FastAPI()
    aqueduct.install(early)
    early.mount("/", catch_all)
    plain = Starlette(routes=[Mount("/", catch_all)], lifespan=aqueduct.lifespan)
    for app in (late, early, plain):
        async with client(app) as http:
            assert await statuses(http) == [200, 200, 200]
            assert (await http.get("/other")).text == "caught"


async def test_a_route_of_the_application_stays() -> None:
    """One that it declared itself at the path of a probe."""

    async def own(request: Any) -> PlainTextResponse:
        return PlainTextResponse("own")

    app = Starlette(routes=[Route("/live", own)], lifespan=Aqueduct(Flow(Adder())).lifespan)
    async with client(app) as http:
        assert (await http.get("/live")).text == "own"
        assert (await http.get("/ready")).status_code == 200


async def test_before_the_start_and_after_the_end() -> None:
    """Alive, and not ready."""
    flow = Flow(Adder())
    app = FastAPI()
    Aqueduct(flow).install(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        assert await statuses(http) == [503, 200, 503]
        assert (await http.get("/ready")).json()["status"] == "stopped"
        async with client(app):
            assert await statuses(http) == [200, 200, 200]
        assert await statuses(http) == [503, 200, 503]


async def test_a_step_without_a_worker_is_not_ready() -> None:
    """A step with fewer workers than it should have is; and all is well again when they are replaced."""
    flow = Flow(FlowStep(Adder(), nprocs=2))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    async with client(app) as http:
        first, second = pids(flow)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: len(pids(flow)) == 1)
        response = await http.get("/ready")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        os.kill(second, signal.SIGKILL)
        await eventually(lambda: not pids(flow))
        assert await statuses(http) == [503, 200, 200]
        assert (await http.get("/ready")).json()["status"] == "unavailable"
        await eventually(lambda: len(pids(flow)) == 2)
        assert await statuses(http) == [200, 200, 200]
