"""Applies the guards of uploads to the routes whose bodies FastAPI reads itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.applications import Starlette

from ..binding.uploads import body_bindings
from ..body.heap import Guarded, HeapGuard
from .fast_path import FastPath
from .stream_path import StreamPath


def guard_routes(app: Starlette) -> None:
    """Guard the bodies of the endpoints and dependencies that take a task. Idempotent.

    The fast path has guards of its own.

    Args:
        app: The application.
    """
    for context in iter_route_contexts(app.routes):
        route: Any = context.original_route
        if isinstance(route, APIRoute) and not isinstance(route.handle, Guarded) and not _is_fast(context):
            for found in _guards(context):
                # Every router calls this method, also one that includes the route.
                route.handle = Guarded(found, route.handle)  # type: ignore[method-assign, assignment]


def _is_fast(context: RouteContext) -> bool:
    # FastAPI may wrap it in its own limit of the body.
    application: Any = getattr(context, "app", None)
    while application is not None and not isinstance(application, FastPath | StreamPath):
        application = getattr(application, "app", None)
    return application is not None and application.has_guard


def _guards(context: RouteContext) -> Iterator[HeapGuard]:
    found = list(body_bindings(context.original_route))
    # An upload is not read by FastAPI, and is guarded where it is read.
    if getattr(context, "body_field", None) is not None or not any(item.uploads.parts for item in found):
        yield from (item.guard for item in found)
