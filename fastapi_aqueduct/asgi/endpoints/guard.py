"""Puts the guards of uploads before the bodies that FastAPI reads itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.applications import Starlette

from ..body.guards import BodyGuard, Guarded
from ..openapi import documented
from .fast_path import Shortcut


def guard(app: Starlette) -> None:
    """Guard the bodies of endpoints and dependencies that take a task; again changes nothing.

    What goes the short way guards itself.
    """
    for context in iter_route_contexts(app.routes):
        route: Any = context.original_route
        if isinstance(route, APIRoute) and not isinstance(route.handle, Guarded) and not _is_short(context):
            for found in _guards(context):
                # What a router calls, in whichever application or router the route is included.
                route.handle = Guarded(found, route.handle)  # type: ignore[method-assign, assignment]


def _is_short(context: RouteContext) -> bool:
    # FastAPI's own limit of the body may be around it.
    application: Any = getattr(context, "app", None)
    while application is not None and not isinstance(application, Shortcut):
        application = getattr(application, "app", None)
    return application is not None


def _guards(context: RouteContext) -> Iterator[BodyGuard]:
    found = list(documented(context))
    # An upload is read past FastAPI, and guarded where it is read.
    if getattr(context, "body_field", None) is not None or not any(item.factory.uploads for item in found):
        yield from (item.guard for item in found)
