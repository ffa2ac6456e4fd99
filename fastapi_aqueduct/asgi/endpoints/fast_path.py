"""The fast path: answers requests to flow endpoints without FastAPI's own handler.

For every request, FastAPI's handler parses the content type with the parser for e-mails, looks for dependencies and
their overrides, for parameters in four places and for observers, and makes a response that it discards. An endpoint
without dependencies needs less: FastAPI's own fields validate the parameters and the JSON, the endpoint is called, and
FastAPI serializes the result. An unusual request (another content type, invalid values, telemetry) goes to FastAPI's
own handler, so that the response is FastAPI's.

Only the handler is replaced. What FastAPI and Starlette put around it (exception handlers, exit stacks) stays theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from operator import attrgetter
from types import FunctionType
from typing import Any, NamedTuple

import fastapi
import starlette
from fastapi import FastAPI, params, routing
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..binding.injection import REQUEST, RESPONSE, Injected
from ..dependencies import watch_stream
from ..responses import JSONContent
from ..versions import unknown
from .endpoint import FlowEndpoint, find_endpoint

_PASSED = (
    "get_request_handler",
    "request_response",
    "solve_dependencies",
    "run_endpoint_function",
    "serialize_response",
)
"""Functions of FastAPI that the fast path skips or calls. A package that observes requests may replace them."""

_JSON = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})

_SOURCES = {
    "path_params": attrgetter("path_params"),
    "query_params": attrgetter("query_params"),
    "header_params": attrgetter("headers"),
    "cookie_params": attrgetter("cookies"),
}
"""The attribute of a request that holds the values of each group of parameters, by FastAPI's name of the group."""


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
        parts = _find_parts()
        for context, endpoint in found:
            route: Any = context._effective_route
            if type(context.original_route) is routing.APIRoute and _is_plain(route):
                route.app = parts.limit(FastPath(route, endpoint, parts), route.max_body_size)
    except (ImportError, AttributeError) as exc:
        return f"fastapi {fastapi.__version__} differs from the release that was tested: {exc}"
    return None


class _Parts(NamedTuple):
    """The private and undocumented parts of FastAPI that the fast path uses."""

    request_response: Any
    serialize: Any
    read: Any
    limit: Any
    describe: Any
    current_route: Any
    default: Any
    allows_body: Any


def _find_parts() -> _Parts:
    # Not at the top of the module: without one of these names the fast path is off, and everything else works.
    from fastapi.datastructures import DefaultPlaceholder
    from fastapi.dependencies.utils import request_params_to_args
    from fastapi.routing import (  # type: ignore[attr-defined]  # FastAPI does not export all of them
        _effective_route_context_var,
        _extract_endpoint_context,
        request_response,
        serialize_response,
        wrap_app_with_body_limit,
    )
    from fastapi.utils import is_body_allowed_for_status_code

    return _Parts(
        request_response=request_response,
        serialize=serialize_response,
        read=request_params_to_args,
        limit=wrap_app_with_body_limit,
        describe=_extract_endpoint_context,
        current_route=_effective_route_context_var,
        default=DefaultPlaceholder,
        allows_body=is_body_allowed_for_status_code,
    )


class FastPath:
    """ASGI application that answers the requests to one route.

    Args:
        route: The route, or FastAPI's effective route where its router is included.
        endpoint: The endpoint of the route.
        parts: The parts of FastAPI that are used.
    """

    def __init__(self, route: Any, endpoint: FlowEndpoint, parts: _Parts) -> None:
        wanted = route.dependant
        self._endpoint = endpoint
        self._handler = _own_handler(route, parts)
        self._read_params = parts.read
        self._allows_body = parts.allows_body
        self._request_name = None if wanted.request_param_name == REQUEST else wanted.request_param_name
        self._body = wanted.body_params[0] if wanted.body_params else None
        self._sources = [(fields, source) for name, source in _SOURCES.items() if (fields := getattr(wanted, name))]
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
            endpoint_ctx={**parts.describe(route.endpoint), "path": _name_of(route)},
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
        values = await self._read(request)
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

    async def _read(self, request: Request) -> dict[str, Any] | None:
        """Read and validate the parameters. None: FastAPI's own handler must answer the request."""
        values: dict[str, Any] = {}
        if self._body is not None:
            value, is_valid = await self._read_json(request, self._body)
            if not is_valid:
                return None
            values[self._body.name] = value
        if _is_special(request):
            return None
        for fields, source in self._sources:
            found, errors = self._read_params(fields, source(request))
            if errors:
                return None
            values |= found
        if self._request_name is not None:
            values[self._request_name] = request
        return values

    async def _read_json(self, request: Request, field: Any) -> tuple[Any, bool]:
        content_type, length = _entity(request)
        try:
            # The request caches it, so FastAPI's handler finds it too.
            body = await self._endpoint.guard.read(request, length)
        except Exception as exc:
            # FastAPI makes the response to that error, and must not read the rest of the body.
            request.body = partial(_fail, exc)  # type: ignore[method-assign]
            return None, False
        if content_type not in _JSON:
            return None, False
        try:
            # Parses numbers and strings as json.loads does, in a tenth of the time, but is stricter. FastAPI's own
            # handler gets what it refuses, as it gets invalid JSON.
            content = from_json(body)
        except ValueError:
            return None, False
        value, errors = field.validate(content, {}, loc=("body",))
        return value, not errors


def _is_special(request: Request) -> bool:
    overrides = getattr(request.app, "dependency_overrides", None)
    return bool(overrides) or request.scope.get("fastapi.telemetry") is not None


def _observed() -> str | None:
    for name in _PASSED:
        function = getattr(routing, name, None)
        # Not __module__: a wrapper copies it, and the class, from the function that it wraps.
        if type(function) is not FunctionType or not function.__globals__["__name__"].startswith("fastapi."):
            return f"fastapi.routing.{name} was replaced, and the replacement must be called"
    return None


def _is_plain(route: Any) -> bool:
    wanted = route.dependant
    specials = (
        wanted.dependencies,
        wanted.websocket_param_name,
        wanted.http_connection_param_name,
        wanted.background_tasks_param_name,
        wanted.security_scopes_param_name,
        wanted.response_param_name != RESPONSE,
        route._embed_body_fields,
        route.is_sse_stream or route.is_json_stream,
    )
    return (
        not any(specials)
        and wanted.call is route.endpoint
        and [type(field.field_info) for field in wanted.body_params] in ([], [params.Body])
        # A response without a body has no Content-Length either. FastAPI's own handler makes it.
        and (route.status_code is None or route.status_code >= 200 and route.status_code not in (204, 205, 304))
    )


def _entity(request: Request) -> tuple[bytes | None, bytes | None]:
    # Not with request.headers, which makes an object and decodes every name until it finds these.
    content_type = length = None
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = value
    return content_type, length


def _name_of(route: Any) -> str:
    return f"{', '.join(sorted(route.methods))} {route.path}"


def _own_handler(route: Any, parts: _Parts) -> Callable[[Request], Awaitable[Response]]:
    if isinstance(route, routing.APIRoute):
        return route.get_route_handler()
    # As FastAPI does where a router is included: the handler belongs to the effective route.
    token = parts.current_route.set(route)
    try:
        handler: Callable[[Request], Awaitable[Response]] = route.original_route.get_route_handler()
    finally:
        parts.current_route.reset(token)
    return handler


async def _fail(exc: Exception) -> bytes:
    raise exc
