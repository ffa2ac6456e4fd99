"""Answers requests to endpoints that yield with an `ItemResponse`, instead of FastAPI's streamed responses."""

from __future__ import annotations

import copy
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from fastapi.datastructures import Default
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..binding.injection import REQUEST, RESPONSE, Injected
from ..streaming.formats import Dump, Format, JSONLines, Pieces, ServerSentEvents, dump_any, dump_as
from ..streaming.primed import Primed
from ..streaming.response import ItemResponse
from .fastapi_parts import FastAPIParts, context_of, has_usual_body, own_handler
from .request_reader import RequestReader, is_plain
from .stream_endpoint import VALUES, StreamEndpoint

_USUAL = {
    "response_model_include": None,
    "response_model_exclude": None,
    "response_model_by_alias": True,
    "response_model_exclude_unset": False,
    "response_model_exclude_defaults": False,
    "response_model_exclude_none": False,
}
"""The options of a route that change what FastAPI sends, with their defaults."""


def is_usual_stream(route: Any) -> bool:
    """Return whether `StreamPath` can answer the requests to a route as FastAPI does.

    Args:
        route: The route of an endpoint that yields, or FastAPI's effective route.
    """
    is_known = route.is_json_stream or route.response_class in (EventSourceResponse, StreamingResponse)
    return is_known and has_usual_body(route) and all(getattr(route, name) == value for name, value in _USUAL.items())


class StreamPath:
    """ASGI application that answers the requests to one route whose endpoint yields.

    Without dependencies of the user's, a request does not pass FastAPI's handler; see `FastPath`. With them, and if it
    is unusual, it does: the handler solves the dependencies, and calls a function that returns the response, in the
    place of the endpoint.

    Args:
        route: The route, or FastAPI's effective route where its router is included.
        endpoint: The endpoint of the route.
        parts: The parts of FastAPI that are used.

    Attributes:
        has_guard: Whether bodies are guarded here.
    """

    def __init__(self, route: Any, endpoint: StreamEndpoint, parts: FastAPIParts) -> None:
        self._endpoint = endpoint
        self._format = _format_of(route, parts)
        self._status_code: int = route.status_code or 200
        self._handler = own_handler(_with_call(route, self._respond), parts)
        dependencies = route.dependant.dependencies
        self.has_guard = len(dependencies) == 1 and is_plain(dependencies[0]) and not route._embed_body_fields
        if self.has_guard:
            self._reader = RequestReader(dependencies[0], endpoint.guard, parts.read)
        self._application: ASGIApp = parts.request_response(self._answer if self.has_guard else self._handler)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request.

        Args:
            scope: ASGI scope of the request.
            receive: ASGI channel to receive from.
            send: ASGI channel to send to.
        """
        return self._application(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        values = await self._reader.read(request)
        if values is None:
            return await self._handler(request)
        headers: list[tuple[bytes, bytes]] = []
        arguments = {name: values.pop(name) for name in self._endpoint.task_names}
        stream = self._endpoint.values(Injected(request, headers, arguments, values), self._endpoint.flow)
        # FastAPI closes it when the response was sent.
        primed = await request.scope["fastapi_inner_astack"].enter_async_context(stream)
        return ItemResponse(primed, self._format, self._status_code, headers)

    async def _respond(self, **values: Any) -> Response:
        primed: Primed = values[VALUES]
        injected: Response = values[RESPONSE]
        status_code = injected.status_code or self._status_code
        return ItemResponse(primed, self._format, status_code, injected.raw_headers)


def _with_call(route: Any, function: Any) -> Any:
    """Copy a route, with another function in the place of its endpoint, which returns responses."""
    copied = copy.copy(route)
    copied.dependant = replace(route.dependant, call=function, request_param_name=REQUEST, response_param_name=RESPONSE)
    copied.response_class = Default(JSONResponse)
    copied.is_sse_stream = copied.is_json_stream = False
    return copied


def _format_of(route: Any, parts: FastAPIParts) -> Format:
    if route.response_class is StreamingResponse:
        return Pieces()
    dump = _dump_of(route, parts)
    return JSONLines(dump) if route.is_json_stream else ServerSentEvents(dump)


def _dump_of(route: Any, parts: FastAPIParts) -> Dump:
    if route.stream_item_type is None:
        return dump_any
    context: Any = context_of(route, parts)
    return dump_as(route.stream_item_type, context)
