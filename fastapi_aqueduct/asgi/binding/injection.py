"""Injection: the signature that FastAPI sees, with the parameters of a task and of the function that gets it."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from fastapi import Depends, params
from starlette.requests import Request
from starlette.responses import Response

from .task_factory import TaskFactory

PREFIX = "aqueduct_"
"""Prefix of the parameters that only FastAPI sees; keeps them apart from those of the user."""

REQUEST, RESPONSE, _ARGUMENTS = PREFIX + "request", PREFIX + "response", PREFIX + "arguments"


class Injected(NamedTuple):
    """The values that FastAPI has injected.

    Attributes:
        request: The request.
        headers: Headers that are added here are added to the response.
        arguments: Values of the task's parameters.
        others: Values of the function's parameters.
    """

    request: Request
    headers: list[tuple[bytes, bytes]]
    arguments: dict[str, Any]
    others: dict[str, Any]


class Injection:
    """Joins the parameters of a function with those of its task.

    A dependency costs FastAPI as much as everything else here, so the parameters of the task are declared beside those
    of the function. Only if names clash, they move to a dependency of their own.

    Args:
        own: The parameters of the function, without the task.
        factory: Has the parameters of the task.

    Attributes:
        signature: The signature for FastAPI.
    """

    def __init__(self, own: inspect.Signature, factory: TaskFactory[Any]) -> None:
        self._own = own
        self._task_names = tuple(factory.signature.parameters)
        parameters = list(own.parameters.values())
        self._is_joined = not _clash(parameters, list(factory.signature.parameters.values()))
        hidden: dict[str, Any] = {}
        if self._is_joined:
            parameters += factory.signature.parameters.values()
        else:
            hidden[_ARGUMENTS] = Annotated[dict[str, Any], Depends(factory.dependency())]
        # FastAPI injects each of these into one parameter only, which may be the user's.
        self._request, self._response = _find(parameters, Request), _find(parameters, Response)
        if self._request is None:
            hidden[REQUEST] = Request
        if self._response is None:
            hidden[RESPONSE] = Response
        keyword = inspect.Parameter.KEYWORD_ONLY
        shown = [parameter.replace(kind=keyword) for parameter in parameters]
        shown += [inspect.Parameter(name, keyword, annotation=hint) for name, hint in hidden.items()]
        self.signature = own.replace(parameters=shown)

    def split(self, values: dict[str, Any]) -> Injected:
        """Divide the values that FastAPI has injected. Removes some from the argument."""
        request = values[self._request] if self._request else values.pop(REQUEST)
        response: Response = values[self._response] if self._response else values.pop(RESPONSE)
        if self._is_joined:
            arguments = {name: values.pop(name) for name in self._task_names}
        else:
            arguments = values.pop(_ARGUMENTS)
        return Injected(request, response.raw_headers, arguments, values)


def _clash(own: list[inspect.Parameter], others: list[inspect.Parameter]) -> bool:
    if {parameter.name for parameter in own} & {parameter.name for parameter in others}:
        return True
    both = [*own, *others]
    return any(len([item for item in both if _is_a(item.annotation, kind)]) > 1 for kind in (Request, Response))


def _find(parameters: list[inspect.Parameter], kind: type) -> str | None:
    return next((parameter.name for parameter in parameters if _is_a(parameter.annotation, kind)), None)


def _is_a(annotation: Any, kind: type) -> bool:
    found, *metadata = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    is_given = any(isinstance(item, params.Depends) for item in metadata)
    return not is_given and isinstance(found, type) and issubclass(found, kind)
