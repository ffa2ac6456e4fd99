"""The private parts of FastAPI that the fast path uses, found at run time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from fastapi import routing
from starlette.requests import Request
from starlette.responses import Response


class FastAPIParts(NamedTuple):
    """The private and undocumented parts of FastAPI that the fast path uses."""

    request_response: Any
    serialize: Any
    read: Any
    limit: Any
    describe: Any
    current_route: Any
    default: Any
    allows_body: Any


def find_parts() -> FastAPIParts:
    """Find the parts.

    Raises:
        ImportError: The installed release has another name for one.
    """
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

    return FastAPIParts(
        request_response=request_response,
        serialize=serialize_response,
        read=request_params_to_args,
        limit=wrap_app_with_body_limit,
        describe=_extract_endpoint_context,
        current_route=_effective_route_context_var,
        default=DefaultPlaceholder,
        allows_body=is_body_allowed_for_status_code,
    )


def own_handler(route: Any, parts: FastAPIParts) -> Callable[[Request], Awaitable[Response]]:
    """Return FastAPI's own handler of the requests to a route.

    Args:
        route: The route, or FastAPI's effective route where its router is included.
        parts: The parts of FastAPI that are used.
    """
    if isinstance(route, routing.APIRoute):
        return route.get_route_handler()
    # As FastAPI does where a router is included: the handler belongs to the effective route.
    token = parts.current_route.set(route)
    try:
        handler: Callable[[Request], Awaitable[Response]] = route.original_route.get_route_handler()
    finally:
        parts.current_route.reset(token)
    return handler


def context_of(route: Any, parts: FastAPIParts) -> dict[str, Any]:
    """Return what FastAPI says of a route in the errors of its responses.

    Args:
        route: The route, or FastAPI's effective route where its router is included.
        parts: The parts of FastAPI that are used.
    """
    return {**parts.describe(route.endpoint), "path": f"{', '.join(sorted(route.methods))} {route.path}"}


def has_usual_body(route: Any) -> bool:
    """Return whether the endpoint of a route is FastAPI's, without a wrapper, and its responses have a body."""
    # A response without a body has no Content-Length either. FastAPI's own handler makes it.
    status_code = route.status_code
    is_usual = status_code is None or (status_code >= 200 and status_code not in (204, 205, 304))
    return is_usual and route.dependant.call is route.endpoint
