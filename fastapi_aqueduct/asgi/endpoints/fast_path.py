"""The fast path: answers requests to flow endpoints without FastAPI's own handler.

For every request, FastAPI's handler parses the content type with the parser for e-mails, looks for dependencies and
their overrides, for parameters in four places and for observers, and makes a response that it discards. An endpoint
without dependencies needs less: FastAPI's own fields validate the parameters and the JSON, the endpoint is called, and
FastAPI serializes the result. An unusual request (another content type, invalid values, telemetry) goes to FastAPI's
own handler, so that the response is FastAPI's.

Only the handler is replaced. What FastAPI and Starlette put around it (exception handlers, exit stacks) stays theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from types import FunctionType
from typing import Any

import fastapi
import starlette
from fastapi import FastAPI, routing
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..binding.injection import Injected
from ..dependencies import watch_stream
from ..responses import JSONContent
from ..versions import unknown
from .endpoint import FlowEndpoint, find_endpoint
from .fastapi_parts import FastAPIParts, context_of, find_parts, has_usual_body, own_handler
from .request_reader import RequestReader, is_plain
from .stream_endpoint import StreamEndpoint
from .stream_path import StreamPath, is_usual_stream

_PASSED = (
    "get_request_handler",
    "request_response",
    "solve_dependencies",
    "run_endpoint_function",
    "serialize_response",
)
"""Functions of FastAPI that the fast path skips or calls. A package that observes requests may replace them."""


def use_fast_path(app: FastAPI) -> str | None:
    """Put the eligible endpoints of an application on the fast path. Idempotent.

    Args:
        app: The application.

    Returns:
        The reason why no endpoint uses the fast path; None when each eligible endpoint does.
    """
    found = [
        (context, endpoint)
        for context in routing.iter_route_contexts(app.routes)
        if (endpoint := find_endpoint(getattr(context, "endpoint", None))) is not None
    ]
    if not found:
        return None
    reason = unknown("fastapi", fastapi.__version__) or unknown("starlette", starlette.__version__) or _observed()
    if reason is not None:
        return reason
    try:
        parts = find_parts()
        for context, endpoint in found:
            route: Any = context._effective_route
            if type(context.original_route) is routing.APIRoute and (path := _path(route, endpoint, parts)) is not None:
                route.app = parts.limit(path, route.max_body_size)
    except (ImportError, AttributeError) as exc:
        return f"fastapi {fastapi.__version__} differs from the release that was tested: {exc}"
    return None


def _path(route: Any, endpoint: FlowEndpoint, parts: FastAPIParts) -> ASGIApp | None:
    if isinstance(endpoint, StreamEndpoint):
        return StreamPath(route, endpoint, parts) if is_usual_stream(route) else None
    return FastPath(route, endpoint, parts) if _is_plain(route) else None


class FastPath:
    """ASGI application that answers the requests to one route.

    Args:
        route: The route, or FastAPI's effective route where its router is included.
        endpoint: The endpoint of the route.
        parts: The parts of FastAPI that are used.

    Attributes:
        has_guard: Whether bodies are guarded here.
    """

    has_guard = True

    def __init__(self, route: Any, endpoint: FlowEndpoint, parts: FastAPIParts) -> None:
        self._endpoint = endpoint
        self._reader = RequestReader(route.dependant, endpoint.guard, parts.read)
        self._handler = own_handler(route, parts)
        self._allows_body = parts.allows_body
        is_usual = isinstance(route.response_class, parts.default)
        self._response_class = route.response_class.value if is_usual else route.response_class
        # Pydantic writes the JSON in this case, and no response class is involved.
        self._is_dumped = is_usual and route.response_field is not None
        self._serialize = partial(
            parts.serialize,
            field=route.response_field,
            include=route.response_model_include,
            exclude=route.response_model_exclude,
            by_alias=route.response_model_by_alias,
            exclude_unset=route.response_model_exclude_unset,
            exclude_defaults=route.response_model_exclude_defaults,
            exclude_none=route.response_model_exclude_none,
            endpoint_ctx=context_of(route, parts),
            dump_json=self._is_dumped,
        )
        self._status_code: int | None = route.status_code
        self._application: ASGIApp = parts.request_response(self.answer)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request.

        Args:
            scope: ASGI scope of the request.
            receive: ASGI channel to receive from.
            send: ASGI channel to send to.
        """
        return self._application(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """Return the response to a request, the same one as FastAPI's handler returns.

        Args:
            request: The request.
        """
        values = await self._reader.read(request)
        if values is None:
            return await self._handler(request)
        headers: list[tuple[bytes, bytes]] = []
        arguments = {name: values.pop(name) for name in self._endpoint.task_names}
        result = await self._endpoint.answer(Injected(request, headers, arguments, values), self._endpoint.flow)
        if isinstance(result, Response):
            if isinstance(result, StreamingResponse):
                watch_stream(request)
            return result
        return self._make_response(await self._serialize(response_content=result), headers)

    def _make_response(self, content: Any, headers: list[tuple[bytes, bytes]]) -> Response:
        if self._is_dumped:
            return JSONContent(content, headers, self._status_code or 200)
        # Without a status code the response class has its own: 307 for a redirect.
        status_code = {"status_code": self._status_code} if self._status_code else {}
        response: Response = self._response_class(content, **status_code)
        if not self._allows_body(response.status_code):
            response.body = b""
        response.raw_headers.extend(headers)
        return response


def _observed() -> str | None:
    for name in _PASSED:
        function = getattr(routing, name, None)
        # Not __module__: a wrapper copies it, and the class, from the function that it wraps.
        if type(function) is not FunctionType or not function.__globals__["__name__"].startswith("fastapi."):
            return f"fastapi.routing.{name} was replaced, and the replacement must be called"
    return None


def _is_plain(route: Any) -> bool:
    return is_plain(route.dependant) and not route._embed_body_fields and has_usual_body(route)
