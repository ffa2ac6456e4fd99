"""Reads parameters from a request where FastAPI does not do it: on plain Starlette routes."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request


async def read_arguments(signature: inspect.Signature, request: Request) -> dict[str, Any]:
    """Read the parameters of a function: from the path if the route has the name, else from the query.

    A parameter of type ``Request`` gets the request, and one that is a pydantic model the JSON body.

    Args:
        signature: The function's, with evaluated annotations.
        request: Where the values come from.

    Raises:
        RequestValidationError: Values are missing or of the wrong type.
    """
    values: dict[str, Any] = {}
    errors: list[Any] = []
    for parameter in signature.parameters.values():
        if _is_a(parameter.annotation, Request):
            values[parameter.name] = request
            continue
        place, found = await _find(parameter, request)
        if found is None and parameter.default is not parameter.empty:
            values[parameter.name] = parameter.default
            continue
        try:
            values[parameter.name] = _validated(parameter, found)
        except ValidationError as exc:
            errors += [{**error, "loc": (*place, *error["loc"])} for error in exc.errors(include_url=False)]
        except LookupError:
            errors.append({"type": "missing", "loc": place, "msg": "Field required", "input": None})
    if errors:
        raise RequestValidationError(errors)
    return values


async def _find(parameter: inspect.Parameter, request: Request) -> tuple[tuple[str, ...], Any]:
    name = parameter.name
    if _is_a(parameter.annotation, BaseModel):
        return ("body",), await request.body() or None
    if name in request.path_params:
        return ("path", name), request.path_params[name]
    if get_origin(_bare(parameter.annotation)) in (list, set, tuple):
        return ("query", name), request.query_params.getlist(name) or None
    return ("query", name), request.query_params.get(name)


def _validated(parameter: inspect.Parameter, value: Any) -> Any:
    if value is None:
        raise LookupError(parameter.name)
    if parameter.annotation is parameter.empty:
        return value
    adapter = _adapter(parameter.annotation)
    return adapter.validate_json(value) if _is_a(parameter.annotation, BaseModel) else adapter.validate_python(value)


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_a(annotation: Any, cls: type) -> bool:
    kind = _bare(annotation)
    return isinstance(kind, type) and issubclass(kind, cls)
