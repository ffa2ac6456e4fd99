"""What FastAPI cannot see by itself: bodies that go to shared memory, and the answers of `errors`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.applications import Starlette

from .factory import Documented

_RESPONSES = {
    "503": "The service is busy or not ready; the header Retry-After says when to try again",
    "504": "The request was not finished in time",
}
_UPLOAD_RESPONSES = {
    "400": "The body is malformed or not as long as announced",
    "408": "The body came too slowly",
    "413": "The body is too large",
    "415": "The body is of a type or a coding that is not taken",
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
            for documented in _documented(route):
                path = schema.get("paths", {}).get(route.path_format, {})
                for method in route.methods or ():
                    if method.lower() in path:
                        _describe(path[method.lower()], documented, schema)
        return schema


def _documented(route: RouteContext) -> Iterator[Documented]:
    dependant: Dependant | None = getattr(route.original_route, "dependant", None)
    pending = [] if dependant is None else [dependant]
    while pending:
        dependant = pending.pop()
        pending += dependant.dependencies
        found = getattr(dependant.call, "__aqueduct__", None)
        if isinstance(found, Documented):
            yield found


def _describe(operation: dict[str, Any], documented: Documented, schema: dict[str, Any]) -> None:
    responses = operation.setdefault("responses", {})
    has_upload = bool(documented.factory.uploads)
    for status, description in (_RESPONSES | (_UPLOAD_RESPONSES if has_upload else {})).items():
        responses.setdefault(status, {"description": description})
    if has_upload and "requestBody" not in operation:
        operation["requestBody"] = _request_body(documented, schema)


def _request_body(documented: Documented, schema: dict[str, Any]) -> dict[str, Any]:
    factory = documented.factory
    media_types = factory.rules.media_types or ("application/octet-stream",)
    form = _form(documented, schema)
    encoding = {name: {"contentType": ", ".join(media_types)} for name in factory.uploads}
    content: dict[str, Any] = {}
    if len(factory.uploads) == 1:
        content = {name: {"schema": _file(name)} for name in media_types}
    content["multipart/form-data"] = {"schema": form}
    if factory.rules.media_types:
        content["multipart/form-data"]["encoding"] = encoding
    return {"required": True, "content": content}


def _form(documented: Documented, schema: dict[str, Any]) -> dict[str, Any]:
    factory = documented.factory
    media_types = factory.rules.media_types
    file = _file(media_types[0] if len(media_types) == 1 else "application/octet-stream")
    form: dict[str, Any] = {
        "type": "object",
        "properties": dict.fromkeys(factory.uploads, file),
        "required": list(factory.required),
    }
    for fields in (factory.fields, documented.fields):
        if fields:
            found = fields.schema()
            form["properties"] |= found["properties"]
            form["required"] += found["required"]
            if found["$defs"]:
                components = schema.setdefault("components", {}).setdefault("schemas", {})
                for name, definition in found["$defs"].items():
                    components.setdefault(name, definition)
    return form


def _file(media_type: str) -> dict[str, Any]:
    return {"type": "string", "contentMediaType": media_type}
