"""What FastAPI cannot see by itself: bodies that go to shared memory, and the answers of `errors`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.applications import Starlette

from .factory import TaskFactory

_RESPONSES = {
    "503": "The service is busy or not ready; the header Retry-After says when to try again",
    "504": "The request was not finished in time",
}
_UPLOAD_RESPONSES = {
    "400": "The body is malformed or not as long as announced",
    "413": "The body is too large",
    "422": "The body is missing or empty, or a parameter is wrong",
}


def document(app: Starlette) -> None:
    """Have ``app.openapi()`` describe the endpoints that take a task; again changes nothing."""
    if not isinstance(app, FastAPI) or isinstance(getattr(app.openapi, "__self__", None), _Description):
        return
    app.openapi = _Description(app).openapi  # type: ignore[method-assign]


class _Description:
    """The schema of an application, with what the package adds."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._inner = app.openapi

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI schema of the application."""
        schema = self._inner()
        # The inner function keeps what it returned, and gets new routes into a new one.
        for route in iter_route_contexts(self._app.routes):
            for factory in _factories(route):
                path = schema.get("paths", {}).get(route.path_format, {})
                for method in route.methods or ():
                    if method.lower() in path:
                        _describe(path[method.lower()], factory)
        return schema


def _factories(route: RouteContext) -> Iterator[TaskFactory[Any]]:
    dependant: Dependant | None = getattr(route.original_route, "dependant", None)
    pending = [] if dependant is None else [dependant]
    while pending:
        dependant = pending.pop()
        pending += dependant.dependencies
        factory = getattr(dependant.call, "__aqueduct__", None)
        if isinstance(factory, TaskFactory):
            yield factory


def _describe(operation: dict[str, Any], factory: TaskFactory[Any]) -> None:
    responses = operation.setdefault("responses", {})
    added = _RESPONSES if factory.upload is None else _RESPONSES | _UPLOAD_RESPONSES
    for status, description in added.items():
        responses.setdefault(status, {"description": description})
    if factory.upload is not None:
        operation.setdefault("requestBody", _request_body(factory.upload))


def _request_body(name: str) -> dict[str, Any]:
    media_type = "application/octet-stream"
    file = {"type": "string", "contentMediaType": media_type}
    form = {"type": "object", "properties": {name: file}, "required": [name]}
    return {"required": True, "content": {media_type: {"schema": file}, "multipart/form-data": {"schema": form}}}
