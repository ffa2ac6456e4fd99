"""Reads parameters from a request where FastAPI does not do it: on plain Starlette routes."""

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

    A parameter of type ``Request`` gets the request, and one that is a pydantic model the JSON body.

    Args:
        signature: The function's, with evaluated annotations.

    Attributes:
        wants_body: Whether one of them is the body.
    """

    def __init__(self, signature: inspect.Signature) -> None:
        self._arguments = [_Argument(parameter) for parameter in signature.parameters.values()]
        self.wants_body = any(argument.is_body for argument in self._arguments)

    def read(self, request: Request, body: bytes) -> dict[str, Any]:
        """Read them.

        Args:
            request: Where the values come from.
            body: Its body, if that is wanted.

        Raises:
            RequestValidationError: Values are missing or of the wrong type.
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
        validate: Makes of what was found what the function gets, or raises ``ValidationError``.
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
        """Return the default, made anew where a factory makes it."""
        return self._default if self._factory is None else self._factory()

    def find(self, request: Request, body: bytes) -> Any:
        """Return what a request has for the parameter; None when it has nothing."""
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
        """Tell where `find` looks."""
        if self.is_body:
            return ("body",)
        return ("path" if self.name in request.path_params else "query"), self.name


def _unchanged(value: Any) -> Any:
    return value
