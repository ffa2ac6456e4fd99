"""What Kubernetes and load balancers ask: answered from memory, without a task and without I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..engine.statistics import FlowStatistics, StepStatistics
from ..flow import Flow, FlowState


class Probes:
    """Three paths that say how the flows are.

    * ``/startup``: 200 once all flows have been ready, which protects a slow load of models.
    * ``/ready``: 200 while every step of every flow has a worker that can take a task.
    * ``/live``: 200 while the event loop can answer. Dead workers are replaced from inside, so a restart from
      outside would not help.

    Args:
        flows: The flows.

    Attributes:
        has_started: Whether the flows have been ready since the start.
    """

    def __init__(self, flows: Sequence[Flow]) -> None:
        self.has_started = False
        self._flows = flows
        self._routes = [
            Route(path, endpoint, methods=["GET"], include_in_schema=False)
            for path, endpoint in (("/ready", self.ready), ("/live", self.live), ("/startup", self.startup))
        ]

    def add_to(self, app: Starlette) -> None:
        """Put the probes before the other routes, so that an application mounted at ``/`` does not hide them.

        Doing it again changes nothing. A path for which the application has a route of its own stays as it is.
        """
        taken = {getattr(route.original_route, "path", None) for route in iter_route_contexts(app.routes)}
        app.router.routes[:0] = [route for route in self._routes if route.path not in taken]

    async def ready(self, request: Request) -> Response:
        """Answer ``/ready``."""
        statistics, status = self._look()
        return _respond(statistics, status, status in ("ready", "degraded"))

    async def live(self, request: Request) -> Response:
        """Answer ``/live``."""
        return _respond(*self._look(), True)

    async def startup(self, request: Request) -> Response:
        """Answer ``/startup``."""
        return _respond(*self._look(), self.has_started)

    def _look(self) -> tuple[list[FlowStatistics], str]:
        statistics = [flow.statistics() for flow in self._flows]
        return statistics, _status(statistics)


def _status(statistics: list[FlowStatistics]) -> str:
    for flow in statistics:
        if flow.state != FlowState.RUNNING:
            return flow.state
    steps = [step for flow in statistics for step in flow.steps]
    if not all(step.ready_workers for step in steps):
        return "unavailable"
    return "ready" if all(step.ready_workers >= step.nprocs for step in steps) else "degraded"


def _respond(statistics: list[FlowStatistics], status: str, is_fine: bool) -> Response:
    steps = [_describe(flow.name, step) for flow in statistics for step in flow.steps]
    # One line per step: it is read by people at a terminal.
    lines = ",\n  ".join(json.dumps(step) for step in steps)
    body = f'{{"status": {json.dumps(status)}, "steps": [\n  {lines}\n]}}\n'
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
