"""What Kubernetes and load balancers ask: answered from memory, without a task and without I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastapi.routing import APIRouter, iter_route_contexts
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Host, Match, Route

from ..flow import Flow, FlowState, FlowStatistics, StepStatistics
from .drain import Drain


class Health(NamedTuple):
    """How the flows of an application are.

    Attributes:
        status: In one word.
        reasons: Why it is not the word ``ready``; sentences for people.
        is_ready: Whether requests should come.
        is_live: Whether waiting helps; False: only a restart of the server may.
    """

    status: str
    reasons: tuple[str, ...]
    is_ready: bool
    is_live: bool


def judge(flows: Sequence[FlowStatistics], has_started: bool, is_draining: bool) -> Health:
    """Tell how the flows are.

    Args:
        flows: What they say about themselves.
        has_started: Whether the application runs: all flows have been ready, and it has not begun to stop them.
        is_draining: Whether the server was told to stop.
    """
    found = list(_symptoms(flows, is_draining))
    status = min((word for word, _ in found), key=_GRAVITY.index, default="ready")
    is_stuck = has_started and not is_draining and any(flow.state == FlowState.STOPPED for flow in flows)
    is_given_up = any(step.is_given_up for flow in flows for step in flow.steps)
    return Health(
        status,
        tuple(reason for _, reason in found),
        is_ready=has_started and status in ("ready", "degraded"),
        is_live=not is_stuck and not is_given_up,
    )


_NOT_RUNNING = (FlowState.STOPPED, FlowState.STARTING, FlowState.STOPPING)

_GRAVITY = ("draining", *_NOT_RUNNING, "failed", "hanging", "broken", "unavailable", "degraded")
"""The words for what is wrong, the one that says most first."""


def _symptoms(flows: Sequence[FlowStatistics], is_draining: bool) -> Iterator[tuple[str, str]]:
    if is_draining:
        yield "draining", "the server was told to stop"
    for flow in flows:
        if flow.state != FlowState.RUNNING:
            yield flow.state, f"flow {flow.name} is {flow.state}"
            continue
        for step in flow.steps:
            yield from _symptoms_of_step(f"step {step.name} of flow {flow.name}", step)


def _symptoms_of_step(name: str, step: StepStatistics) -> Iterator[tuple[str, str]]:
    ready = step.ready_workers
    if step.hanging_for:
        word = "failed" if step.is_given_up else "hanging"
        yield word, f"no call of {name} has returned for {step.hanging_for:.0f} s, and its tasks time out"
    elif step.is_given_up:
        yield "failed", f"{name} has had no ready worker for so long that none is expected any more"
    if step.is_broken:
        counts = f"{step.restarts} restarts" + f", {step.failed_launches} failed launches" * bool(step.failed_launches)
        yield "broken", f"workers of {name} die too often: {counts}"
    if not ready:
        yield "unavailable", f"{name} has no ready worker; one is expected in {step.expected_wait:.1f} s"
    elif ready < step.nprocs:
        yield "degraded", f"{name} has {ready} of {step.nprocs} workers"


class Probes:
    """Three paths that say how the flows are.

    * ``/startup``: 200 once all flows have been ready, which protects a slow load of models.
    * ``/ready``: 200 while every step of every flow has a worker that can take a task, its workers do not die all the
      time, their calls return, and the server was not told to stop.
    * ``/live``: 503 only when a step has had no ready worker, or no call has returned, for so long that a restart of
      the server is the last thing to try. Dead workers are replaced from inside, so a restart from outside would not
      help before.

    Args:
        flows: The flows.
        drain: Knows whether the server was told to stop.

    Attributes:
        has_started: Whether the flows have been ready since the start.
    """

    def __init__(self, flows: Sequence[Flow], drain: Drain) -> None:
        self.has_started = False
        self._flows = flows
        self._drain = drain
        self._endpoints = {"/ready": self.ready, "/live": self.live, "/startup": self.startup}
        self._routes = [
            Route(path, endpoint, methods=["GET"], include_in_schema=False)
            for path, endpoint in self._endpoints.items()
        ]

    def router(self) -> APIRouter:
        """Make a router with the probes, which FastAPI can include with a prefix and dependencies."""
        router = APIRouter()
        for path, endpoint in self._endpoints.items():
            router.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
        return router

    def add_to(self, app: Starlette) -> None:
        """Put the probes after the other routes, which are asked in order, but before one that would hide them.

        Doing it again changes nothing. A path for which the application has a route of its own stays as it is.
        """
        taken = {context.path for context in iter_route_contexts(app.routes)}
        routes = [route for route in self._routes if route.path not in taken]
        place = next((index for index, route in enumerate(app.routes) if _hides(route, routes)), len(app.routes))
        app.router.routes[place:place] = routes

    async def ready(self, request: Request) -> Response:
        """Answer ``/ready``."""
        statistics, health = self._look()
        return _respond(statistics, health, health.is_ready)

    async def live(self, request: Request) -> Response:
        """Answer ``/live``."""
        statistics, health = self._look()
        return _respond(statistics, health, health.is_live)

    async def startup(self, request: Request) -> Response:
        """Answer ``/startup``."""
        statistics, health = self._look()
        return _respond(statistics, health, self.has_started)

    def _look(self) -> tuple[list[FlowStatistics], Health]:
        statistics = [flow.statistics() for flow in self._flows]
        return statistics, judge(statistics, self.has_started, self._drain.is_draining)


def _hides(route: BaseRoute, others: list[Route]) -> bool:
    """Tell whether a route answers to the path of another: an application mounted at ``/``, or ``/{name}``."""
    request = {"type": "http", "method": "GET", "root_path": "", "headers": [], "query_string": b""}
    return isinstance(route, Host) or any(
        route.matches({**request, "path": other.path})[0] is not Match.NONE for other in others
    )


def _respond(statistics: list[FlowStatistics], health: Health, is_fine: bool) -> Response:
    # One line per step: it is read by people at a terminal.
    steps = ",\n  ".join(json.dumps(_describe(flow.name, step)) for flow in statistics for step in flow.steps)
    head = f'"status": {json.dumps(health.status)}, "reasons": {json.dumps(health.reasons)}'
    body = f'{{{head}, "steps": [\n  {steps}\n]}}\n'
    headers = {"Cache-Control": "no-store"}
    return Response(body, 200 if is_fine else 503, headers, "application/json")


def _describe(flow: str, step: StepStatistics) -> dict[str, str | int]:
    return {
        "flow": flow,
        "step": step.name,
        "workers": step.nprocs,
        "ready": step.ready_workers,
        "restarts": step.restarts,
        "queued": step.queued,
    }
