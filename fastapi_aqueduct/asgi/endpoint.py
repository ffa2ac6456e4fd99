"""A function that sees finished tasks becomes an endpoint."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from ..flow import Flow
from ..task import BaseTask
from .arguments import read_arguments
from .dependencies import GivenFlow, hidden_parameters
from .disconnect import DisconnectWatch
from .errors import http_errors
from .factory import TaskFactory, refuse_body_parameters
from .upload import DEFAULT_MAX_BODY_SIZE

PREFIX = "aqueduct_"
"""Before the names of the parameters that only FastAPI sees, so that they meet none of the user's."""


def flow_endpoint(
    flow: Flow, *, timeout_sec: float = 5.0, max_body_size: int = DEFAULT_MAX_BODY_SIZE
) -> Callable[[Callable[..., Any]], Callable[..., Awaitable[Any]]]:
    """Make an endpoint of a function that takes a finished task.

    Args:
        flow: Where the tasks go.
        timeout_sec: Seconds in which the flow must finish a task.
        max_body_size: The most bytes that a body may have.

    Exactly one parameter of the function is annotated with a subclass of `BaseTask`. The parameters of that class's
    constructor become parameters of the request, declared as in any FastAPI endpoint; one of type `Upload` receives
    the body. The request is judged first, then a place in the queue is asked for, then the body is read, straight
    into shared memory; then the task is made, processed and handed to the function, whose other parameters, return
    annotation and docstring are FastAPI's as always.

    Example:
        ::

            @app.post("/ocr")
            @flow_endpoint(flow)
            async def ocr(task: OcrTask) -> OcrResult:
                return OcrResult(lines=task.lines)

    On a plain Starlette route, ``Route("/ocr", flow_endpoint(flow)(ocr), methods=["POST"])``, the parameters come
    from the path and the query, a pydantic model from the JSON body, and the function returns a ``Response``.

    Raises:
        TypeError: The function has no task or several, or is a generator.
        ConfigurationError: The task asks for more than a request can give.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        return FlowEndpoint(function, flow, timeout_sec, max_body_size).wrapper()

    return decorate


class FlowEndpoint:
    """A function, and the flow its task comes from.

    Args:
        function: Takes the finished task.
        flow: Where the tasks go.
        timeout_sec: Seconds in which the flow must finish a task.
        max_body_size: The most bytes that a body may have.
    """

    def __init__(self, function: Callable[..., Any], flow: Flow, timeout_sec: float, max_body_size: int) -> None:
        signature = _checked_signature(function)
        self._function = function
        self._flow = flow
        self._timeout = timeout_sec
        self._task_name, task_type = _find_task(function, signature)
        self._factory = TaskFactory(task_type, max_body_size, timeout_sec)
        others = [parameter for parameter in signature.parameters.values() if parameter.name != self._task_name]
        self._signature = signature.replace(parameters=others)
        if self._factory.upload is not None:
            refuse_body_parameters(function.__qualname__, self._signature)

    def wrapper(self) -> Callable[..., Awaitable[Any]]:
        """Return the endpoint, for FastAPI and for Starlette."""

        async def endpoint(*args: Any, **kwargs: Any) -> Any:
            if args:
                return await self._answer_starlette(*args)
            request = kwargs.pop(f"{PREFIX}request")
            flow = kwargs.pop(f"{PREFIX}flow")
            arguments = kwargs.pop(f"{PREFIX}arguments")
            return await self._answer(request, flow, arguments, kwargs)

        functools.update_wrapper(endpoint, self._function)
        # FastAPI would look through it, at the user's own parameters.
        del endpoint.__wrapped__  # type: ignore[attr-defined]
        endpoint.__signature__ = self._injected_signature()  # type: ignore[attr-defined]
        endpoint.__aqueduct__ = self._factory  # type: ignore[attr-defined]
        return endpoint

    async def _answer(self, request: Request, flow: Flow, arguments: dict[str, Any], others: dict[str, Any]) -> Any:
        with http_errors(request.scope):
            task = await self._factory.make(request, flow, arguments)
            async with DisconnectWatch(request.receive):
                await flow.process(task, self._timeout)
        others[self._task_name] = task
        if inspect.iscoroutinefunction(self._function):
            return await self._function(**others)
        return await run_in_threadpool(self._function, **others)

    async def _answer_starlette(self, request: Request) -> Any:
        try:
            arguments = await read_arguments(self._factory.signature, request)
            others = await read_arguments(self._signature, request)
            return await self._answer(request, self._flow, arguments, others)
        except RequestValidationError as exc:
            return await request_validation_exception_handler(request, exc)

    def _injected_signature(self) -> inspect.Signature:
        hidden = hidden_parameters(GivenFlow(self._flow), self._factory).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [parameter.replace(kind=keyword) for parameter in self._signature.parameters.values()]
        added = [parameter.replace(name=PREFIX + parameter.name) for parameter in hidden]
        return self._signature.replace(parameters=own + added)


def _checked_signature(function: Callable[..., Any]) -> inspect.Signature:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__} is a generator, which flow_endpoint cannot drive: declare its task as "
            "`task: Annotated[..., FlowTask()]` without flow_endpoint, and process it in the function"
        )
    # Evaluated, since the user's module may have `from __future__ import annotations`.
    return inspect.signature(function, eval_str=True)


def _find_task(function: Callable[..., Any], signature: inspect.Signature) -> tuple[str, type[BaseTask]]:
    tasks = {
        parameter.name: parameter.annotation
        for parameter in signature.parameters.values()
        if isinstance(parameter.annotation, type) and issubclass(parameter.annotation, BaseTask)
    }
    if len(tasks) != 1:
        raise TypeError(
            f"{function.__qualname__}: exactly one parameter must be annotated with a subclass of BaseTask, "
            f"found {', '.join(tasks) or 'none'}"
        )
    return tasks.popitem()
