"""Probes tell how the flows are."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route

from fastapi_aqueduct import Aqueduct, Flow, FlowStep
from fastapi_aqueduct.asgi.probes import judge
from fastapi_aqueduct.engine.statistics import (
    ArenaStatistics,
    FlowStatistics,
    StepStatistics,
    WorkerState,
    WorkerStatistics,
)
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.flow import FlowState
from fastapi_aqueduct.testing import client

from ..engine.checked import Checked
from ..reliability.handlers import SlowToLoad
from ..support import eventually, forked, pids
from .handlers import Add, Adder
from .support import bare_client

PATHS = ["/ready", "/live", "/startup"]


async def catch_all(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("caught")(scope, receive, send)


async def statuses(http: Any) -> list[int]:
    return [(await http.get(path)).status_code for path in PATHS]


def make_step(*states: WorkerState, **fields: Any) -> StepStatistics:
    workers = tuple(WorkerStatistics(pid, state, 0) for pid, state in enumerate(states, start=1))
    return StepStatistics("step", workers, nprocs=2, queued=0, **fields)


READY = WorkerState.READY
STARTING = WorkerState.STARTING
GOOD = make_step(READY, READY)
HALF = make_step(READY, STARTING)
NONE = make_step(STARTING, expected_wait=2.5)
BROKEN = make_step(READY, READY, is_broken=True, restarts=6)
LOST = make_step(is_given_up=True, is_broken=True)
HANGING = make_step(READY, READY, hanging_for=61.5)
HUNG = make_step(READY, READY, hanging_for=361.5, is_given_up=True)
ILL, WELL = (WorkerStatistics(1, READY, 0, problem=problem) for problem in ("check() returned False", ""))
UNHEALTHY = StepStatistics("step", (ILL, ILL), nprocs=2, queued=0)
HALF_HEALTHY = StepStatistics("step", (ILL, WELL), nprocs=2, queued=0)
SHORT = make_step(STARTING, is_broken=True, failed_launches=7)
RUNNING = FlowStatistics("flow", FlowState.RUNNING, (GOOD, GOOD), ArenaStatistics(1), 0, 0, 0, 0, 0)
STOPPED = replace(RUNNING, state=FlowState.STOPPED)
STARTS = replace(RUNNING, state=FlowState.STARTING)
STOPS = replace(RUNNING, state=FlowState.STOPPING)


def run(*steps: StepStatistics) -> FlowStatistics:
    return replace(RUNNING, steps=steps)


@pytest.mark.parametrize(
    ("flows", "has_started", "is_draining", "status", "is_ready", "is_live", "words"),
    [
        ([RUNNING], True, False, "ready", True, True, []),
        ([RUNNING, RUNNING], True, False, "ready", True, True, []),
        ([RUNNING], False, False, "ready", False, True, []),
        ([STARTS], False, False, "starting", False, True, ["flow flow is starting"]),
        ([replace(STARTS, reason="no model\n1")], True, False, "starting", False, True, ["starting: no model"]),
        ([RUNNING, STARTS], False, False, "starting", False, True, ["is starting"]),
        ([STOPPED], False, False, "stopped", False, True, ["is stopped"]),
        ([STOPPED], True, False, "stopped", False, False, ["is stopped"]),
        ([STOPPED], True, True, "draining", False, True, ["told to stop", "is stopped"]),
        ([STOPS], True, False, "stopping", False, True, ["is stopping"]),
        ([STOPS], False, True, "draining", False, True, ["told to stop", "is stopping"]),
        ([RUNNING], True, True, "draining", False, True, ["told to stop"]),
        ([run(GOOD, HALF)], True, False, "degraded", True, True, ["step step of flow flow has 1 of 2 workers"]),
        ([run(HALF)], True, True, "draining", False, True, ["told to stop", "1 of 2"]),
        ([run(NONE, GOOD)], True, False, "unavailable", False, True, ["no ready worker; one is expected in 2.5 s"]),
        ([run(HALF, NONE)], True, False, "unavailable", False, True, ["1 of 2", "no ready worker"]),
        ([RUNNING, run(NONE)], True, False, "unavailable", False, True, ["no ready worker"]),
        ([run(BROKEN)], True, False, "broken", False, True, ["die too often: 6 restarts"]),
        ([run(GOOD, HANGING)], True, False, "hanging", False, True, ["no call of step step of flow flow has"]),
        ([run(UNHEALTHY)], True, False, "unhealthy", False, True, ["2 of 2 workers of step step of flow"]),
        ([run(HALF_HEALTHY)], True, False, "degraded", True, True, ["models of 1 of 2 workers of step step of flow"]),
        ([run(HUNG, GOOD)], True, False, "failed", False, False, ["has returned for 362 s"]),
        ([run(SHORT)], True, False, "broken", False, True, ["0 restarts, 7 failed launches", "no ready worker"]),
        ([run(GOOD, LOST)], True, False, "failed", False, False, ["a long time", "too often", "no ready worker"]),
        ([run(LOST)], True, True, "draining", False, False, ["told to stop", "a long time", "too often", "no ready"]),
    ],
)
def test_truth_table(
    flows: list[FlowStatistics],
    has_started: bool,
    is_draining: bool,
    status: str,
    is_ready: bool,
    is_live: bool,
    words: list[str],
) -> None:
    """From what flows say about themselves to what they are; the start-up probe says ``has_started`` and no more."""
    health = judge(flows, has_started, is_draining)
    assert (health.status, health.is_ready, health.is_live) == (status, is_ready, is_live)
    assert len(health.reasons) == len(words)
    for reason, expected in zip(health.reasons, words, strict=True):
        assert expected in reason


async def test_answers() -> None:
    """GET and HEAD, never from a cache, one line for each step, and not in the schema."""
    flow = forked(FlowStep(Add(), nprocs=2), Adder(), name="both")
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    async with client(app) as http:
        for path in PATHS:
            response = await http.get(path)
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            assert response.headers["cache-control"] == "no-store"
            assert response.json() == {
                "status": "ready",
                "reasons": [],
                "steps": [
                    {"flow": "both", "version": 1, "restarts": 0, "queued": 0} | step
                    for step in (
                        {"step": "step1_Add", "workers": 2, "ready": 2},
                        {"step": "step2_Adder", "workers": 1, "ready": 1},
                    )
                ],
            }
            assert len([line for line in response.text.splitlines() if "step" in line]) == 3
            assert (await http.head(path)).status_code == 200
            assert (await http.post(path)).status_code == 405
        assert (await http.get("/openapi.json")).json()["paths"] == {}


async def test_ready_tells_what_is_wrong_with_the_models(tmp_path: Path) -> None:
    """As soon as the application has started."""
    (tmp_path / "says").write_text("no")
    app = FastAPI(lifespan=Aqueduct(forked(FlowStep(Checked(tmp_path), name="classify"))).lifespan)
    async with client(app) as http:
        response = await http.get("/ready")
        assert response.status_code == 503
        assert response.json()["status"] == "unhealthy"
        assert response.json()["reasons"] == [
            "the models of 1 of 1 workers of step classify of flow flow are unhealthy: check() returned False"
        ]
        assert response.json()["steps"][0]["unhealthy"] == 1
        assert (await http.get("/live")).status_code == 200


async def test_a_mount_at_the_root_does_not_hide_them() -> None:
    """Whatever door the flow was put in through, and in whatever order."""
    flow = forked(Adder())
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


async def test_a_path_that_fits_all_does_not_hide_them() -> None:
    """Also in a router that is included; routes that hide nothing are asked first."""

    async def named(name: str) -> str:
        return name

    flow = forked(Adder())
    own, included = FastAPI(lifespan=Aqueduct(flow).lifespan), FastAPI(lifespan=Aqueduct(flow).lifespan)
    router = APIRouter()
    router.add_api_route("/{name}", named)
    own.add_api_route("/{name}", named)
    included.include_router(router)
    host = Starlette(routes=[Host("{host}", catch_all)], lifespan=Aqueduct(flow).lifespan)
    for app in (own, included, host):
        async with client(app) as http:
            assert await statuses(http) == [200, 200, 200]
            assert (await http.get("/other")).text in ('"other"', "caught")
    plain = FastAPI(lifespan=Aqueduct(flow).lifespan)
    plain.add_api_route("/named/{name}", named)
    async with client(plain) as http:
        assert await statuses(http) == [200, 200, 200]
        assert [getattr(route, "path", "") for route in plain.routes][-4:-2] == ["/named/{name}", "/ready"]


async def test_a_route_of_the_application_stays() -> None:
    """One that it declared itself at the path of a probe."""

    async def own(request: Any) -> PlainTextResponse:
        return PlainTextResponse("own")

    app = Starlette(routes=[Route("/live", own)], lifespan=Aqueduct(forked(Adder())).lifespan)
    async with client(app) as http:
        assert (await http.get("/live")).text == "own"
        assert (await http.get("/ready")).status_code == 200


async def test_before_the_start_and_after_the_end() -> None:
    """Alive, and not ready."""
    flow = forked(Adder())
    app = FastAPI()
    Aqueduct(flow).install(app)
    async with bare_client(app) as http:
        assert await statuses(http) == [503, 200, 503]
        assert (await http.get("/ready")).json()["status"] == "stopped"
        async with client(app):
            assert await statuses(http) == [200, 200, 200]
        assert await statuses(http) == [503, 200, 503]


async def test_a_step_without_a_worker_is_not_ready(tmp_path: Path) -> None:
    """A step with fewer workers than it should have is; and all is well again when they are replaced."""
    slow = tmp_path / "slow"
    flow = forked(FlowStep(SlowToLoad(slow), nprocs=2))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    async with client(app) as http:
        first, second = pids(flow)
        slow.touch()
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: len(pids(flow)) == 1)
        response = await http.get("/ready")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        os.kill(second, signal.SIGKILL)
        await eventually(lambda: not pids(flow))
        assert await statuses(http) == [503, 200, 200]
        body = (await http.get("/ready")).json()
        assert body["status"] == "unavailable"
        assert "step1_SlowToLoad of flow flow has no ready worker" in body["reasons"][0]
        slow.unlink()
        await eventually(lambda: len(pids(flow)) == 2)
        assert await statuses(http) == [200, 200, 200]


@pytest.mark.parametrize(("quick_load", "ready", "status"), [(60.0, 200, "ready"), (0.0, 503, "broken")])
async def test_workers_that_die_again_and_again(quick_load: float, ready: int, status: str) -> None:
    """Those that load quickly are there again; those that do not leave too few who serve, but need no restart yet."""
    timing = Timing(quick_load=quick_load, longest_wait=1.0)
    flow = Flow(FlowStep(Adder(), nprocs=6), timing=timing)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    async with client(app) as http:
        for _ in range(2):
            await eventually(lambda: len(pids(flow)) == 6)
            assert await statuses(http) == [200, 200, 200]
            for pid in pids(flow):
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda: not pids(flow))
        await eventually(lambda: len(pids(flow)) == 6)
        assert flow.statistics().steps[0].restarts == 12
        assert await statuses(http) == [ready, 200, 200]
        assert (await http.get("/ready")).json()["status"] == status


async def test_a_flow_that_was_stopped() -> None:
    """Only a restart of the server starts it again."""
    flow = forked(Adder())
    async with client(FastAPI(lifespan=Aqueduct(flow).lifespan)) as http:
        await flow.stop()
        assert await statuses(http) == [503, 503, 200]


async def test_the_router_elsewhere() -> None:
    """With a prefix and dependencies, for GET and HEAD, and not in the schema; at the root only by themselves."""
    flow = forked(Adder())
    asked: list[str] = []

    def guard(request: Request) -> None:
        asked.append(request.url.path)
        if "x-key" not in request.headers:
            raise HTTPException(403)

    for add_probes in (False, True):
        aqueduct = Aqueduct(flow, add_probes=add_probes)
        app = FastAPI(lifespan=aqueduct.lifespan)
        app.include_router(aqueduct.probes, prefix="/internal", dependencies=[Depends(guard)])
        async with client(app) as http:
            for path in PATHS:
                assert (await http.get("/internal" + path)).status_code == 403
                answer = await http.get("/internal" + path, headers={"x-key": "k"})
                assert (answer.status_code, answer.json()["status"]) == (200, "ready")
                assert answer.headers["cache-control"] == "no-store"
                assert (await http.head("/internal" + path, headers={"x-key": "k"})).status_code == 200
            assert await statuses(http) == ([200] * 3 if add_probes else [404] * 3)
            assert (await http.get("/openapi.json")).json()["paths"] == {}
    assert set(asked) == {"/internal" + path for path in PATHS}
