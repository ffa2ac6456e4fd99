"""The short way through FastAPI, and through Starlette, for endpoints of flows.

For every request FastAPI takes the content type apart with the parser for e-mails, looks for dependencies and for what
replaces them, for parameters in four places, for observers, and makes an answer that nobody sees; without that a
request costs a third less, which is more than all that the flow costs. What is left to do for an endpoint without
dependencies is to have FastAPI's own fields validate the parameters and the JSON, to call the endpoint, and to have
FastAPI serialize what it returns. Whatever is not as usual (another content type, something that is not valid,
telemetry that listens) goes to FastAPI's own handler with the same request, so that it answers as ever.

Plain Starlette routes need no such care: what is around their endpoints is for errors only, and `Direct` leaves it out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from operator import attrgetter
from types import FunctionType
from typing import Any

import fastapi
from fastapi import FastAPI, params, routing
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.utils import request_params_to_args
from fastapi.utils import is_body_allowed_for_status_code
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, request_response
from starlette.types import ASGIApp

from .bodyguard import Guarded
from .direct import Direct
from .endpoint import FlowEndpoint, find_endpoint
from .injection import REQUEST, RESPONSE, Injected
from .response import JSONContent

_KNOWN_VERSION = "0.165."
"""What a handler of FastAPI does for a request changes from version to version; only what is known is shortened."""

_PASSED = (
    "get_request_handler",
    "request_response",
    "solve_dependencies",
    "run_endpoint_function",
    "serialize_response",
)

_JSON = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})

_SOURCES = {
    "path_params": attrgetter("path_params"),
    "query_params": attrgetter("query_params"),
    "header_params": attrgetter("headers"),
    "cookie_params": attrgetter("cookies"),
}
"""Where a request has what FastAPI keeps under these names of an endpoint's parameters."""

_MADE_BY_STARLETTE = request_response(lambda request: Response()).__code__
"""What Starlette makes of every function that is an endpoint."""

# What it makes its handlers of is no part of FastAPI's interface; that it is as expected is what `_is_known` asks.
_fastapi: Any = routing


def shorten(app: Starlette) -> None:
    """Have the endpoints of an application answer by the short way where there is one; again changes nothing."""
    _shorten_plain(app.routes)
    if isinstance(app, FastAPI) and _is_known():
        _shorten_own(app)


def _shorten_plain(routes: Iterable[BaseRoute]) -> None:
    for route in routes:
        endpoint = find_endpoint(getattr(route, "endpoint", None))
        if endpoint is not None and type(route) is Route and _is_untouched(route):
            route.app = Direct(endpoint.answer_plainly)
        _shorten_plain(getattr(route, "routes", ()))


def _shorten_own(app: FastAPI) -> None:
    for context in routing.iter_route_contexts(app.routes):
        route: Any = context._effective_route
        endpoint = find_endpoint(getattr(route, "endpoint", None))
        is_usual = type(context.original_route) is routing.APIRoute
        if endpoint is not None and is_usual and _is_plain(route):
            # Nothing here needs FastAPI's two stacks of what is to be closed afterwards.
            answering = Direct(Shortcut(route, endpoint, _own_handler(route)).answer)
            route.app = _fastapi.wrap_app_with_body_limit(answering, route.max_body_size)


class Shortcut:
    """Answers the requests to one route.

    Args:
        route: The route, or what stands for it in an application that includes its router.
        endpoint: What it calls.
        handler: FastAPI's own way to answer.
    """

    def __init__(self, route: Any, endpoint: FlowEndpoint, handler: Callable[[Request], Awaitable[Response]]) -> None:
        wanted = route.dependant
        self._endpoint = endpoint
        self._handler = handler
        self._request_name = None if wanted.request_param_name == REQUEST else wanted.request_param_name
        self._body = wanted.body_params[0] if wanted.body_params else None
        self._sources = [(fields, source) for name, source in _SOURCES.items() if (fields := getattr(wanted, name))]
        self._serialize = partial(
            _fastapi.serialize_response,
            field=route.response_field,
            include=route.response_model_include,
            exclude=route.response_model_exclude,
            by_alias=route.response_model_by_alias,
            exclude_unset=route.response_model_exclude_unset,
            exclude_defaults=route.response_model_exclude_defaults,
            exclude_none=route.response_model_exclude_none,
            endpoint_ctx={**_fastapi._extract_endpoint_context(route.endpoint), "path": _name_of(route)},
            dump_json=True,
        )
        self._status_code = route.status_code or 200

    async def answer(self, request: Request) -> ASGIApp:
        """Answer a request, with a response or with whatever FastAPI makes of it."""
        values = None if _is_special(request) else await self._read(request)
        if values is None:
            return self._own_answer(request)
        headers: list[tuple[bytes, bytes]] = []
        arguments = {name: values.pop(name) for name in self._endpoint.task_names}
        result = await self._endpoint.answer(Injected(request, headers, arguments, values), self._endpoint.flow)
        if isinstance(result, Response):
            return result
        content = await self._serialize(response_content=result)
        return JSONContent(content, headers, self._status_code)

    def _own_answer(self, request: Request) -> ASGIApp:
        async def answer(_: Request) -> Response:
            return await self._handler(request)

        # The request that we have looked at keeps the body, if it has been read, or what was wrong with it.
        has_looked = hasattr(request, "_body") or "body" in vars(request)
        application: ASGIApp = _fastapi.request_response(answer if has_looked else self._handler)
        return Guarded(self._endpoint.guard, application) if self._body is not None else application

    async def _read(self, request: Request) -> dict[str, Any] | None:
        """Read and validate the parameters; None when FastAPI should say what it thinks of the request."""
        values: dict[str, Any] = {}
        if self._body is not None:
            value, is_valid = await self._read_json(request, self._body)
            if not is_valid:
                return None
            values[self._body.name] = value
        for fields, source in self._sources:
            found, errors = request_params_to_args(fields, source(request))
            if errors:
                return None
            values |= found
        if self._request_name is not None:
            values[self._request_name] = request
        return values

    async def _read_json(self, request: Request, field: Any) -> tuple[Any, bool]:
        content_type, length = _entity(request)
        if content_type not in _JSON:
            return None, False
        try:
            body = await self._endpoint.guard.read(request, length)
        except Exception as exc:
            # FastAPI knows what to answer to that, and must not take what is left for the body.
            request.body = partial(_fail, exc)  # type: ignore[method-assign]
            return None, False
        try:
            # Reads a number and a text as json.loads does, in a tenth of the time, and less that is unusual: for that
            # there is FastAPI's own handler, as for what is no JSON.
            content = from_json(body)
        except ValueError:
            return None, False
        value, errors = field.validate(content, {}, loc=("body",))
        return value, not errors


def _is_untouched(route: Route) -> bool:
    # Middleware of a route is around it, and a package that observes requests may have wrapped the endpoint.
    made: Any = route.app
    if type(made) is not FunctionType or made.__code__ is not _MADE_BY_STARLETTE:
        return False
    return any(cell.cell_contents is route.endpoint for cell in made.__closure__ or ())


def _is_special(request: Request) -> bool:
    overrides = getattr(request.app, "dependency_overrides", None)
    return bool(overrides) or request.scope.get("fastapi.telemetry") is not None


def _is_known() -> bool:
    # Whoever has put something of his own in place of FastAPI's functions, to observe requests, wants to be called.
    return fastapi.__version__.startswith(_KNOWN_VERSION) and all(_is_own(getattr(routing, name)) for name in _PASSED)


def _is_own(function: Any) -> bool:
    # Not __module__, which a wrapper takes over, as it does the class of what it wraps.
    return type(function) is FunctionType and function.__globals__["__name__"].startswith("fastapi.")


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
        and isinstance(route.response_class, DefaultPlaceholder)
        and route.response_field is not None
        and is_body_allowed_for_status_code(route.status_code)
    )


def _entity(request: Request) -> tuple[bytes | None, bytes | None]:
    # Not through request.headers, which makes an object and decodes every name on the way to these.
    content_type = length = None
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = value
    return content_type, length


def _name_of(route: Any) -> str:
    return f"{', '.join(sorted(route.methods))} {route.path}"


def _own_handler(route: Any) -> Callable[[Request], Awaitable[Response]]:
    if isinstance(route, routing.APIRoute):
        return route.get_route_handler()
    # As FastAPI does where a router is included: the handler is that of what stands for the route there.
    token = _fastapi._effective_route_context_var.set(route)
    try:
        handler: Callable[[Request], Awaitable[Response]] = route.original_route.get_route_handler()
    finally:
        _fastapi._effective_route_context_var.reset(token)
    return handler


async def _fail(exc: Exception) -> bytes:
    raise exc
