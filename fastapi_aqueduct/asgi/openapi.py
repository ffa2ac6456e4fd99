"""The OpenAPI schema of what FastAPI cannot see: bodies that go to shared memory, and the responses of `errors`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import validation_error_definition, validation_error_response_definition
from fastapi.responses import EventSourceResponse
from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette

from .binding.uploads import BodyBinding, Uploads, body_bindings
from .body.parts import UploadPart

_ANY = "application/octet-stream"
_EVENTS = EventSourceResponse.media_type

_RESPONSES = {
    "503": "The service is busy or not ready; the header Retry-After says when to try again",
    "504": "The request was not finished in time",
}
_BODY_RESPONSES = {
    "400": "The body is malformed, or its length differs from Content-Length",
    "408": "The body arrived too slowly",
    "413": "The body is too large",
}
_REFUSALS = {
    409: "Another request has used the Idempotency-Key, for something else",
    429: "Too many tasks of the tenant are waiting; the header Retry-After says when to try again",
    507: "There is no space for more jobs; the header Retry-After says when to try again",
}
_UPLOAD_RESPONSES = {
    "415": "The type or the coding of the body is not supported",
    "422": "The body is missing or empty, or a parameter is invalid",
}

_DETAIL = {
    "type": "object",
    "properties": {"detail": {"type": "string", "title": "Detail"}},
    "required": ["detail"],
}
_INVALID = {"$ref": "#/components/schemas/HTTPValidationError"}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
_HEADERS = dict.fromkeys(("429", "503", "507"), _RETRY_AFTER)


def document(app: Starlette) -> None:
    """Make ``app.openapi()`` describe the endpoints that take a task. Idempotent.

    Args:
        app: The application; only those of FastAPI have a schema.
    """
    if not isinstance(app, FastAPI) or isinstance(getattr(app.openapi, "__self__", None), _Description):
        return
    app.openapi = _Description(app).openapi  # type: ignore[method-assign]


class _Description:
    """The schema of an application with the additions of the package."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._inner = app.openapi

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI schema of the application."""
        schema = self._inner()
        # The inner function caches its result, and makes a new one for new routes.
        for route in iter_route_contexts(self._app.routes):
            for item in body_bindings(route.original_route):
                path = schema.get("paths", {}).get(route.path_format, {})
                for method in route.methods or ():
                    if method.lower() in path:
                        _describe(path[method.lower()], item, schema)
        return schema


def _describe(operation: dict[str, Any], binding: BodyBinding, schema: dict[str, Any]) -> None:
    wanted = _RESPONSES | {str(status): _REFUSALS[status] for status in binding.refusals}
    if binding.uploads.parts:
        wanted |= _BODY_RESPONSES | _UPLOAD_RESPONSES
        operation.setdefault("requestBody", _request_body(binding, schema))
    elif "requestBody" in operation:
        wanted |= _BODY_RESPONSES
    responses = operation.setdefault("responses", {})
    for status, response in responses.items():
        content = response.get("content", {})
        # FastAPI gives all models of a route the media type of its response class; but an error is never an event.
        if not status.startswith("2") and _EVENTS in content:
            content.setdefault("application/json", content.pop(_EVENTS))
    for status in sorted(wanted.keys() - responses.keys()):
        responses[status] = _response(status, wanted[status], schema)


def _response(status: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Describe a response of `errors`; it has the same body as FastAPI's own errors."""
    if status == "422":
        components = _components(schema)
        components.setdefault("ValidationError", validation_error_definition)
        components.setdefault("HTTPValidationError", validation_error_response_definition)
    body = _INVALID if status == "422" else _DETAIL
    response: dict[str, Any] = {"description": description, "content": {"application/json": {"schema": body}}}
    if status in _HEADERS:
        response["headers"] = _HEADERS[status]
    return response


def _components(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema.setdefault("components", {}).setdefault("schemas", {})
    return found


def _request_body(binding: BodyBinding, schema: dict[str, Any]) -> dict[str, Any]:
    uploads = binding.uploads
    form = _form(binding, schema)
    content: dict[str, Any] = {}
    names = {part.name for part in uploads.parts.values()}
    # A raw body is one upload: it brings neither another one nor a field that must be there.
    if len(names) == 1 and names >= set(form["required"]):
        (part,) = uploads.parts.values()
        content = {name: {"schema": _file(part, name)} for name in _media_types(part, uploads) or (_ANY,)}
    if uploads.raw is not None:
        return {"required": bool(form["required"]), "content": content}
    content["multipart/form-data"] = {"schema": form}
    encoding = {
        part.name: {"contentType": ", ".join(media_types)}
        for part in uploads.parts.values()
        if (media_types := _media_types(part, uploads))
    }
    if encoding:
        content["multipart/form-data"]["encoding"] = encoding
    return {"required": bool(form["required"]), "content": content}


def _form(binding: BodyBinding, schema: dict[str, Any]) -> dict[str, Any]:
    uploads = binding.uploads
    form: dict[str, Any] = {
        "type": "object",
        "properties": {part.name: _files(part, uploads) for part in uploads.parts.values()},
        "required": [part.name for part in uploads.parts.values() if part.is_required],
    }
    for fields in binding.fields:
        found = fields.schema()
        form["properties"] |= found["properties"]
        form["required"] += found["required"]
        for name, definition in found["$defs"].items():
            _components(schema).setdefault(name, definition)
    return form


def _media_types(part: UploadPart, uploads: Uploads) -> tuple[str, ...]:
    return part.media_types or uploads.rules.media_types


def _files(part: UploadPart, uploads: Uploads) -> dict[str, Any]:
    media_types = _media_types(part, uploads)
    file = _file(part, media_types[0] if len(media_types) == 1 else _ANY)
    return {"type": "array", "items": file} if part.is_list else file


def _file(part: UploadPart, media_type: str) -> dict[str, Any]:
    file: dict[str, Any] = {"type": "string", "contentMediaType": media_type}
    if part.is_required:
        file["minLength"] = 1
    if part.max_size is not None:
        file["maxLength"] = part.max_size
    return file
