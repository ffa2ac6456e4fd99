"""Probes for Kubernetes and load balancers: answered from memory, without a task and without I/O."""

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
    """The health of an application's flows.

    Attributes:
        status: The health in one word.
        reasons: Why the status is not ``ready``, as sentences.
        is_ready: Whether requests should be sent here.
        is_live: Whether the flows can recover; if not, only a restart of the server may help.
    """

    status: str
    reasons: tuple[str, ...]
    is_ready: bool
    is_live: bool


def judge(flows: Sequence[FlowStatistics], has_started: bool, is_draining: bool) -> Health:
    """Return the health of flows.

    Args:
        flows: Snapshots of the flows.
        has_started: Whether the application runs: all flows were ready, and it does not stop them yet.
        is_draining: Whether the server was told to stop.
    """
    found = list(_symptoms(flows, is_draining))
    status = min((word for word, _ in found), key=GRAVITY.index, default="ready")
    is_stuck = has_started and not is_draining and any(flow.state == FlowState.STOPPED for flow in flows)
    is_given_up = any(step.is_given_up for flow in flows for step in flow.steps)
    return Health(
        status,
        tuple(reason for _, reason in found),
        is_ready=has_started and status in ("ready", "degraded"),
        is_live=not is_stuck and not is_given_up,
    )


_NOT_RUNNING = (FlowState.STOPPED, FlowState.STARTING, FlowState.STEPS_INITIALIZED, FlowState.STOPPING)

GRAVITY = ("draining", *_NOT_RUNNING, "failed", "hanging", "broken", "unavailable", "unhealthy", "degraded")
"""The words for problems, the gravest first."""


def _symptoms(flows: Sequence[FlowStatistics], is_draining: bool) -> Iterator[tuple[str, str]]:
    if is_draining:
        yield "draining", "the server was told to stop"
    for flow in flows:
        if flow.state != FlowState.RUNNING:
            because = f": {flow.reason.partition(chr(10))[0]}" * bool(flow.reason)
            yield flow.state, f"flow {flow.name} is {flow.state}{because}"
            continue
        if flow.silent_for:
            word = "failed" if any(step.is_given_up for step in flow.steps) else "hanging"
            silence = f"{flow.silent_for:.0f} s"
            yield word, f"the pipeline process of flow {flow.name} has given no sign of life for {silence}"
            continue
        for step in flow.steps:
            yield from symptoms_of_step(f"step {step.name} of flow {flow.name}", step)


def symptoms_of_step(name: str, step: StepStatistics) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a step of a running flow: a word of `GRAVITY`, and a sentence.

    Args:
        name: How the sentences call it.
        step: Its statistics.
    """
    ready = step.ready_workers
    if step.hanging_for:
        word = "failed" if step.is_given_up else "hanging"
        yield word, f"no call of {name} has returned for {step.hanging_for:.0f} s, and its tasks time out"
    elif step.is_given_up:
        yield "failed", f"{name} has had no ready worker for a long time and is not expected to recover"
    if step.is_broken:
        counts = f"{step.restarts} restarts" + f", {step.failed_launches} failed launches" * bool(step.failed_launches)
        yield "broken", f"workers of {name} die too often: {counts}"
    if step.is_asleep or step.is_waking:
        return
    if not ready:
        yield "unavailable", f"{name} has no ready worker; one is expected in {step.expected_wait:.1f} s"
        return
    if ready < step.nprocs:
        yield "degraded", f"{name} has {ready} of {step.nprocs} workers"
    if problems := step.problems:
        word = "unhealthy" if len(problems) == ready else "degraded"
        yield word, f"the models of {len(problems)} of {ready} workers of {name} are unhealthy: {problems[0]}"


class Probes:
    """Three paths that respond with the health of flows.

    * ``/startup``: 200 once all flows were ready, so that models can load slowly.
    * ``/ready``: 200 while every step of every flow has a ready worker whose `check` finds nothing wrong, or is asleep,
      workers do not die repeatedly, calls of handlers return, and the server was not told to stop.
    * ``/live``: 503 only when a step has had no ready worker, or no call has returned, for so long that only a restart
      of the server may help. Until then dead workers are replaced, and a restart would not help.

    Args:
        flows: The flows.
        drain: Shows whether the server was told to stop.

    Attributes:
        has_started: Whether the flows were ready since the start of the application.
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

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        _, health = self.look()
        return health.is_ready

    def router(self) -> APIRouter:
        """Return a new router with the probes, which FastAPI can include with a prefix and dependencies."""
        router = APIRouter()
        for path, endpoint in self._endpoints.items():
            router.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
        return router

    def add_to(self, app: Starlette) -> None:
        """Add the probes after the other routes, but before a route that would hide them. Idempotent.

        Routes are tried in order. A path for which the application has a route of its own gets no probe.

        Args:
            app: The application.
        """
        taken = {context.path for context in iter_route_contexts(app.routes)}
        routes = [route for route in self._routes if route.path not in taken]
        place = next((index for index, route in enumerate(app.routes) if _hides(route, routes)), len(app.routes))
        app.router.routes[place:place] = routes

    async def ready(self, request: Request) -> Response:
        """Respond to ``/ready``."""
        statistics, health = self.look()
        return _respond(statistics, health, health.is_ready)

    async def live(self, request: Request) -> Response:
        """Respond to ``/live``."""
        statistics, health = self.look()
        return _respond(statistics, health, health.is_live)

    async def startup(self, request: Request) -> Response:
        """Respond to ``/startup``."""
        statistics, health = self.look()
        return _respond(statistics, health, self.has_started)

    def look(self) -> tuple[list[FlowStatistics], Health]:
        """Return the statistics of the flows, and their health."""
        statistics = [flow.statistics() for flow in self._flows]
        return statistics, judge(statistics, self.has_started, self._drain.is_draining)


def _hides(route: BaseRoute, others: list[Route]) -> bool:
    """Return whether a route matches the path of another: an application mounted at ``/``, or ``/{name}``."""
    request = {"type": "http", "method": "GET", "root_path": "", "headers": [], "query_string": b""}
    return isinstance(route, Host) or any(
        route.matches({**request, "path": other.path})[0] is not Match.NONE for other in others
    )


def _respond(statistics: list[FlowStatistics], health: Health, is_fine: bool) -> Response:
    # One line for each step: people read it in a terminal.
    steps = ",\n  ".join(json.dumps(_describe(flow.name, step)) for flow in statistics for step in flow.steps)
    head = f'"status": {json.dumps(health.status)}, "reasons": {json.dumps(health.reasons)}'
    body = f'{{{head}, "steps": [\n  {steps}\n]}}\n'
    headers = {"Cache-Control": "no-store"}
    return Response(body, 200 if is_fine else 503, headers, "application/json")


def _describe(flow: str, step: StepStatistics) -> dict[str, str | int]:
    description: dict[str, str | int] = {
        "flow": flow,
        "step": step.name,
        "version": step.version,
        "workers": step.nprocs,
        "ready": step.ready_workers,
        "restarts": step.restarts,
        "queued": step.queued,
    }
    if step.problems:
        description["unhealthy"] = len(step.problems)
    if step.is_asleep:
        description["asleep"] = True
    return description
