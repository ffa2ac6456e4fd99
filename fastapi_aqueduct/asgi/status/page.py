"""The status page: its routes, and its life with the application."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from fastapi import APIRouter, Depends
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from ...flow import Flow
from ..drain import Drain
from ..flow_set import FlowJobs
from ..probes import Probes
from ..streaming.formats import ServerSentEvents
from ..streaming.primed import Primed
from ..streaming.response import ItemResponse
from .actions import Actions, Answer
from .assets import HEADERS, respond_with
from .changes import ReplaceChange, ScaleChange, StepChange, read_change
from .exposure import Exposure
from .flow_view import FlowView
from .hub import Hub
from .origin import check_origin
from .replacements import Offered, Replacements
from .snapshot import Snapshot


class Events:
    """Server-Sent Events that are written already."""

    headers: ClassVar[list[tuple[bytes, bytes]]] = [
        *((name, value) for name, value in ServerSentEvents.headers if name != b"cache-control"),
        *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
    ]
    keep_alive: ClassVar[bytes] = ServerSentEvents.keep_alive

    def encode(self, value: bytes) -> bytes:
        """Return the event as it is."""
        return value


class StatusPage:
    """A page with the flows of an application, and its buttons.

    Args:
        flows: The flows.
        jobs: Their jobs; None: there are none.
        probes: Judge their health.
        drain: Shows whether signals to stop are handled; if not, no response of the page stays open.
        offered: The handlers that may replace those of steps, by step and name; None: none.
        is_public: Whether the page may be without dependencies.

    Raises:
        ConfigurationError: A handler cannot replace that of its step.
    """

    def __init__(
        self,
        flows: Sequence[Flow],
        jobs: FlowJobs | None,
        probes: Probes,
        drain: Drain,
        offered: Offered | None,
        is_public: bool,
    ) -> None:
        replacements = Replacements(offered, flows)
        self._drain = drain
        self._exposure = Exposure(self._owns, (check_origin,), is_public)
        self._actions = Actions(flows, replacements)
        views = [FlowView(flow, replacements) for flow in flows]
        self._snapshot = Snapshot(probes.look, views, jobs, self._actions)
        self._hub = Hub(self._snapshot.make)

    def router(self) -> APIRouter:
        """Return a router with the page, which FastAPI can include with a prefix and dependencies."""
        router = APIRouter()

        def add(path: str, endpoint: Callable[..., Any], method: str = "GET", dependencies: Sequence[Any] = ()) -> None:
            name = f"aqueduct_{endpoint.__name__}"
            router.add_api_route(
                *(path, endpoint),
                name=name,
                methods=[method],
                dependencies=dependencies,
                include_in_schema=False,
                response_model=None,
            )

        add("/", self.page)
        add("/status.css", self.style)
        add("/{name}.js", self.script)
        add("/snapshot", self.snapshot)
        add("/events", self.events)
        for endpoint in (self.restart, self.scale, self.replace):
            add(f"/{endpoint.__name__}", endpoint, "POST", [Depends(check_origin)])
        return router

    def check(self, app: Starlette) -> None:
        """Check that a dependency stands before the page wherever an application includes it.

        Args:
            app: The application.

        Raises:
            ConfigurationError: None does.
        """
        self._exposure.check(app)

    def open(self) -> None:
        """Let open pages follow: the application has started."""
        self._hub.open()

    def end(self) -> None:
        """End the responses of open pages: the server stops."""
        self._hub.end()

    async def close(self) -> None:
        """End the responses of open pages, and cancel changes that are under way."""
        self.end()
        await self._actions.close()

    async def page(self, request: Request) -> Response:
        """Respond with the page."""
        self._exposure.check_request(request)
        return respond_with("status.html", "text/html")

    async def style(self, request: Request) -> Response:
        """Respond with the style of the page."""
        self._exposure.check_request(request)
        return respond_with("status.css", "text/css")

    async def script(self, request: Request, name: str) -> Response:
        """Respond with a script of the page."""
        self._exposure.check_request(request)
        return respond_with(f"{name}.js", "text/javascript")

    async def snapshot(self, request: Request) -> Response:
        """Respond with all that the page shows, as JSON."""
        self._exposure.check_request(request)
        return Response(await self._snapshot.make(), 200, HEADERS, "application/json")

    async def events(self, request: Request) -> Response:
        """Respond with what the page shows, now and once a second."""
        self._exposure.check_request(request)
        values = Primed(self._hub.follow(only_one=not self._drain.is_installed), None)
        await values.begin()
        return ItemResponse(values, Events())

    async def restart(self, request: Request) -> Response:
        """Replace the workers of a step by fresh ones."""
        self._exposure.check_request(request)
        change = await read_change(request, StepChange)
        return _respond(await self._actions.restart(change, _client(request)))

    async def scale(self, request: Request) -> Response:
        """Give a step another number of workers."""
        self._exposure.check_request(request)
        change = await read_change(request, ScaleChange)
        return _respond(await self._actions.scale(change, _client(request)))

    async def replace(self, request: Request) -> Response:
        """Replace the handler of a step by one that the code of the application offers."""
        self._exposure.check_request(request)
        change = await read_change(request, ReplaceChange)
        return _respond(await self._actions.replace(change, _client(request)))

    def _owns(self, endpoint: Any) -> bool:
        return getattr(endpoint, "__self__", None) is self


def _respond(answer: Answer) -> Response:
    body = json.dumps({"detail": answer.detail})
    return Response(body, answer.status, HEADERS, "application/json")


def _client(request: Request) -> str:
    return request.client.host if request.client is not None else "a client without an address"
