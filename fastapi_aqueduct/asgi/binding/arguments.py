"""Reads the parameters of an endpoint on a plain Starlette route, where FastAPI does not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

from fastapi import params
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request

from ...exceptions import ConfigurationError
from .parameters import default_factory, has_default


class ArgumentReader:
    """Reads the parameters of a function: from the path if the route has the name, else from the query.

    A mark such as ``Header()`` names another place. A parameter of type ``Request`` gets the request. A pydantic
    model, or a parameter with the mark ``Body()``, gets the JSON body.

    Args:
        signature: Signature of the function, with evaluated annotations.

    Attributes:
        bodies: Names of the parameters that are the body.
    """

    def __init__(self, signature: inspect.Signature) -> None:
        self._arguments = [_Argument(parameter) for parameter in signature.parameters.values()]
        self.bodies = [argument.name for argument in self._arguments if argument.is_body]

    def read(self, request: Request, body: bytes) -> dict[str, Any]:
        """Read and validate the parameters.

        Args:
            request: The request.
            body: Its body; empty if there are no `bodies`.

        Raises:
            RequestValidationError: Values are missing or invalid.
        """
        values: dict[str, Any] = {}
        errors: list[Any] = []
        for argument in self._arguments:
            found = argument.find(request, body)
            if found is not None:
                try:
                    values[argument.name] = argument.validate(found)
                except ValidationError as exc:
                    place = argument.place(request)
                    errors += [{**error, "loc": (*place, *error["loc"])} for error in exc.errors(include_url=False)]
            elif argument.is_required:
                errors.append(
                    {"type": "missing", "loc": argument.place(request), "msg": "Field required", "input": None}
                )
            else:
                values[argument.name] = argument.default()
        if errors:
            raise RequestValidationError(errors)
        return values


class _Argument:
    """One of the parameters.

    Args:
        parameter: The parameter.

    Attributes:
        name: Its name.
        is_required: Whether it has no default.
        is_body: Whether it is the JSON body.
        validate: Converts the found value, or raises ``ValidationError``.

    Raises:
        ConfigurationError: It is a field of a form without an upload or of a JSON object, which only FastAPI reads.
    """

    def __init__(self, parameter: inspect.Parameter) -> None:
        annotation = parameter.annotation
        kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
        self.name = parameter.name
        self.is_required = not has_default(parameter)
        self._default = parameter.default
        self._factory = default_factory(parameter)
        self._is_request = isinstance(kind, type) and issubclass(kind, Request)
        self._is_list = get_origin(kind) in (list, set, tuple)
        mark = _mark_of(parameter)
        self.is_body = isinstance(mark, params.Body) or (isinstance(kind, type) and issubclass(kind, BaseModel))
        if isinstance(mark, params.Form):
            raise ConfigurationError(
                f"{self.name} is a field of a form without an Upload, which is read on a route of FastAPI and not on "
                "one of Starlette"
            )
        if isinstance(mark, params.Body) and mark.embed:
            raise ConfigurationError(no_field([self.name]))
        self._place: str | None = mark.in_.value if isinstance(mark, params.Param) else None
        self._alias = self.name if mark is None or mark.alias is None else mark.alias
        if isinstance(mark, params.Header) and mark.alias is None and mark.convert_underscores:
            self._alias = self.name.replace("_", "-")
        self.validate: Callable[[Any], Any]
        if self._is_request or annotation is parameter.empty:
            self.validate = _unchanged
        else:
            validator = TypeAdapter(annotation).validator
            self.validate = validator.validate_json if self.is_body else validator.validate_python

    def default(self) -> Any:
        """Return the default; a new one if it has a factory."""
        return self._default if self._factory is None else self._factory()

    def find(self, request: Request, body: bytes) -> Any:
        """Return the value in a request; None if there is none."""
        if self.is_body:
            return body or None
        if self._is_request:
            return request
        place, name = self.place(request)
        if place == "path":
            return request.path_params.get(name)
        if place == "cookie":
            return request.cookies.get(name)
        values = request.headers if place == "header" else request.query_params
        return (values.getlist(name) or None) if self._is_list else values.get(name)

    def place(self, request: Request) -> tuple[str, ...]:
        """Return the place where `find` looks, for errors."""
        if self.is_body:
            return ("body",)
        return self._place or ("path" if self._alias in request.path_params else "query"), self._alias


def no_field(names: list[str]) -> str:
    """Return the message of the error for parameters that are fields of a JSON object on a plain route."""
    return (
        f"{' and '.join(names)}: fields of a JSON body are read on a route of FastAPI, and not on one of "
        "Starlette; use one pydantic model for the whole body"
    )


def _mark_of(parameter: inspect.Parameter) -> params.Param | params.Body | None:
    metadata = get_args(parameter.annotation)[1:] if get_origin(parameter.annotation) is Annotated else ()
    return next((item for item in reversed(metadata) if isinstance(item, params.Param | params.Body)), None)


def _unchanged(value: Any) -> Any:
    return value
