"""Reads the parameters of an endpoint on a plain Starlette route, where FastAPI does not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request

from .parameters import default_factory, has_default


class ArgumentReader:
    """Reads the parameters of a function: from the path if the route has the name, else from the query.

    A parameter of type ``Request`` gets the request, and a pydantic model gets the JSON body.

    Args:
        signature: Signature of the function, with evaluated annotations.

    Attributes:
        needs_body: Whether a parameter is the body.
    """

    def __init__(self, signature: inspect.Signature) -> None:
        self._arguments = [_Argument(parameter) for parameter in signature.parameters.values()]
        self.needs_body = any(argument.is_body for argument in self._arguments)

    def read(self, request: Request, body: bytes) -> dict[str, Any]:
        """Read and validate the parameters.

        Args:
            request: The request.
            body: Its body; empty unless `needs_body`.

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
    """

    def __init__(self, parameter: inspect.Parameter) -> None:
        annotation = parameter.annotation
        kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
        self.name = parameter.name
        self.is_required = not has_default(parameter)
        self._default = parameter.default
        self._factory = default_factory(parameter)
        self.is_body = isinstance(kind, type) and issubclass(kind, BaseModel)
        self._is_request = isinstance(kind, type) and issubclass(kind, Request)
        self._is_list = get_origin(kind) in (list, set, tuple)
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
        if self.name in request.path_params:
            return request.path_params[self.name]
        if self._is_list:
            return request.query_params.getlist(self.name) or None
        return request.query_params.get(self.name)

    def place(self, request: Request) -> tuple[str, ...]:
        """Return the place where `find` looks, for errors."""
        if self.is_body:
            return ("body",)
        return ("path" if self.name in request.path_params else "query"), self.name


def _unchanged(value: Any) -> Any:
    return value
