"""The decorator `flow_endpoint`: makes an endpoint of a function that gets a finished task."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import FrameType
from typing import Any, ForwardRef

from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Scope
from starlette.websockets import WebSocket

from ...exceptions import InvalidArgument
from ...flow import Flow
from ...runtime import runtime_of
from ...task import BaseTask
from ..binding.arguments import ArgumentReader
from ..binding.form import FormFields
from ..binding.injection import Injected, Injection
from ..binding.parameters import task_type_of, typed_signature
from ..binding.task_factory import TaskBinding, TaskFactory
from ..body.heap import HeapGuard
from ..body.limits import BodyRules, checked_media_types, content_length
from ..dependencies import GivenFlow, check_flow, solve, watch_stream
from ..disconnect import DisconnectWatch
from ..errors import raise_http_error
from ..responses import JSONContent
from ..server_timing import server_timing
from ..settings import UploadLimits, settings_of
from ..shutdown import raise_for_shutdown
from ..traceback import Untangled


def flow_endpoint(
    flow: Flow,
    *,
    timeout_sec: float = 5.0,
    media_type: str | Iterable[str] | None = None,
    max_body_size: int | None = None,
    accept_gzip: bool = False,
    upload_limits: UploadLimits | None = None,
    server_timing: bool | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Awaitable[Any]]]:
    """Make an endpoint of a function that gets a finished task.

    Args:
        flow: The flow that processes the tasks.
        timeout_sec: Seconds in which the flow must finish a task.
        media_type: Media type of the upload, or several, such as ``"image/*"``; other types are refused with 415.
        max_body_size: The most bytes of a body; default: that of ``upload_limits``, or FastAPI's own
            ``max_body_size``.
        accept_gzip: Whether a body may have the Content-Encoding gzip; ``max_body_size`` applies before and after
            decompression.
        upload_limits: Limits while the body arrives; default: those of `Aqueduct`.
        server_timing: Whether the response has a header Server-Timing; default: that of `Aqueduct`. The header shows
            clients the names of the steps.

    Exactly one parameter of the function is annotated with a subclass of `BaseTask`. The parameters of that class's
    constructor become parameters of the request, declared as in any FastAPI endpoint. A parameter of type `Upload`
    gets the body; several get the parts of a multipart form (``list[Upload]``: all parts of a name), beside its
    ``Form()`` fields (`FormField` in modules that do not import FastAPI). The request is validated first; then the
    flow is asked for a place in its queue; then the body is read into shared memory, the task is made and processed,
    and the function is called. Its other parameters, return annotation and docstring work as in FastAPI.

    Example:
        ::

            @app.post("/ocr")
            @flow_endpoint(flow)
            async def ocr(task: OcrTask) -> OcrResult:
                return OcrResult(lines=task.lines)

    On a plain Starlette route, ``Route("/ocr", flow_endpoint(flow)(ocr), methods=["POST"])``, parameters come from
    the path and the query, and a pydantic model from the JSON body. The function returns a ``Response``, or a value
    that pydantic can serialize to JSON.

    Raises:
        InvalidArgument: The function has no task or several, is a generator, or takes a websocket; or ``flow`` is no
            flow.
        ConfigurationError: A request cannot provide a parameter of the task.
    """
    check_flow("@flow_endpoint", flow)
    rules = BodyRules(
        media_types=checked_media_types(media_type),
        max_body_size=max_body_size,
        limits=upload_limits,
        accept_gzip=accept_gzip,
        wait=timeout_sec,
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        signature = _checked_signature(function, _names_around(function, inspect.currentframe()))
        return FlowEndpoint(function, signature, flow, rules, timeout_sec, server_timing).wrapper()

    return decorate


class FlowEndpoint:
    """An endpoint: a function, and the flow that processes its tasks.

    Args:
        function: Gets the finished task.
        signature: Its signature, with evaluated annotations.
        flow: The flow.
        rules: Rules for the body.
        timeout_sec: Seconds in which the flow must finish a task.
        server_timing: Whether the response has a header Server-Timing; None: the setting of the application.

    Attributes:
        flow: The flow, unless ``dependency_overrides`` replaces it.
        guard: Reads bodies that are no uploads.
        task_names: Names of the task's parameters, without uploads and fields of a form.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        signature: inspect.Signature,
        flow: Flow,
        rules: BodyRules,
        timeout_sec: float,
        server_timing: bool | None,
    ) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)
        self.flow = flow
        self._given = GivenFlow(flow)
        self._timeout = timeout_sec
        self._server_timing = server_timing
        self._task_name, task_type = _find_task(function, signature)
        self._factory = TaskFactory(task_type, rules, timeout_sec)
        self.guard = HeapGuard(rules, flow)
        self.task_names = tuple(self._factory.signature.parameters)
        others = [parameter for parameter in signature.parameters.values() if parameter.name != self._task_name]
        self._signature = signature.replace(parameters=others)
        self._fields: FormFields | None = None
        if self._factory.uploads:
            self._fields = FormFields(function.__qualname__, self._signature)
            self._signature = self._fields.rest

    def wrapper(self) -> Callable[..., Awaitable[Any]]:
        """Return the endpoint, for FastAPI and for Starlette."""
        injection = Injection(self._signature, self._factory)

        async def endpoint(*args: Any, **kwargs: Any) -> Any:
            if args:
                return await self.answer_plainly(*args)
            injected = injection.split(kwargs)
            # Not a dependency: one only for tests would cost each request a fifth of FastAPI's whole time.
            overrides = getattr(injected.request.app, "dependency_overrides", None)
            override = overrides.get(self._given) if overrides else None
            flow = self.flow if override is None else await solve(override, injected.request)
            result = await self.answer(injected, flow)
            if isinstance(result, StreamingResponse):
                watch_stream(injected.request)
            return result

        functools.update_wrapper(endpoint, self._function)
        # With it FastAPI would use the signature of the user's function.
        del endpoint.__wrapped__  # type: ignore[attr-defined]
        endpoint.__signature__ = injection.signature  # type: ignore[attr-defined]
        endpoint.__aqueduct__ = TaskBinding(self._factory, self.guard, self._fields)  # type: ignore[attr-defined]
        endpoint.__flow_endpoint__ = self, endpoint  # type: ignore[attr-defined]
        return endpoint

    async def answer(self, injected: Injected, flow: Flow) -> Any:
        """Make the task, process it and call the function.

        Args:
            injected: The values of the parameters.
            flow: The flow of the task.

        Returns:
            The result of the function.

        Raises:
            HTTPException: The request was refused, or its task failed with an error of the flow.
        """
        request, headers, arguments, others = injected
        started_at = time.monotonic()
        try:
            task, fields, received_at = await self._process(request, flow, arguments)
        except Exception as exc:
            raise_http_error(request.scope, exc)
        others |= fields
        others[self._task_name] = task
        result = await (self._function(**others) if self._is_async else run_in_threadpool(self._function, **others))
        if self._is_timed(request.scope):
            upload = received_at - started_at if self._factory.uploads else None
            steps, _ = runtime_of(task).get("metrics", ((), 0.0))  # raw: task.metrics makes objects of them
            timing = server_timing(upload, steps, time.monotonic() - started_at)
            # FastAPI adds the headers of the injected response to every response that the function does not make.
            target = result.raw_headers if isinstance(result, Response) else headers
            target.append((b"server-timing", timing))
        return result

    async def answer_plainly(self, request: Request) -> Any:
        """Answer a request on a plain Starlette route, which FastAPI does not see."""
        ours, others = self._readers
        headers: list[tuple[bytes, bytes]] = []
        try:
            body = b""
            if ours.needs_body or others.needs_body:
                body = await self.guard.read(request, content_length(request.scope))
            injected = Injected(request, headers, ours.read(request, body), others.read(request, body))
            result = await self.answer(injected, self.flow)
        except RequestValidationError as exc:
            return await request_validation_exception_handler(request, exc)
        if isinstance(result, StreamingResponse):
            return Untangled(result)
        # Starlette calls the result: a response or any other ASGI application.
        return result if callable(result) else JSONContent(to_json(result, inf_nan_mode="null"), headers)

    # Made at the first request: parameters that FastAPI injects may be none that can be read here.
    @functools.cached_property
    def _readers(self) -> tuple[ArgumentReader, ArgumentReader]:
        return ArgumentReader(self._factory.signature), ArgumentReader(self._signature)

    async def _process(
        self, request: Request, flow: Flow, arguments: dict[str, Any]
    ) -> tuple[BaseTask, dict[str, Any], float]:
        # A frame of its own, to which the response to an error does not refer: hypercorn keeps the response after the
        # client of an HTTP/2 connection has disconnected, and would keep the task and its blocks too.
        if self._factory.uploads:
            task, fields = await self._factory.make_with(request, flow, arguments, self._fields)
        else:
            task, fields = self._factory.make_at_once(flow, arguments), {}
        received_at = time.monotonic()
        try:
            with DisconnectWatch(request.receive):
                await flow.process(task, self._timeout)
        except asyncio.CancelledError as exc:
            raise_for_shutdown(request.scope, exc)
        return task, fields, received_at

    def _is_timed(self, scope: Scope) -> bool:
        if self._server_timing is not None:
            return self._server_timing
        settings = settings_of(scope)
        return settings is not None and settings.server_timing


def find_endpoint(function: object) -> FlowEndpoint | None:
    """Return the endpoint of a function that `FlowEndpoint.wrapper` made; None for any other function.

    A decorator that uses ``functools.wraps`` copies every attribute, but its own function must be called.
    """
    endpoint, made = getattr(function, "__flow_endpoint__", (None, None))
    return endpoint if made is function else None


def _checked_signature(function: Callable[..., Any], local_names: Mapping[str, Any] | None) -> inspect.Signature:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidArgument(
            f"{function.__qualname__} is a generator, which flow_endpoint does not support: declare its task as "
            "`task: Annotated[..., FlowTask()]` without flow_endpoint, and process it in the function"
        )
    signature = typed_signature(function, local_names)
    if any(_is_websocket(parameter.annotation) for parameter in signature.parameters.values()):
        raise InvalidArgument(
            f"{function.__qualname__} takes a WebSocket, but flow_endpoint is for HTTP requests; use FlowDep: take "
            "`flow: FlowDep` and call `await flow.process(task)`"
        )
    return signature


def _names_around(function: Callable[..., Any], frame: FrameType | None) -> Mapping[str, Any] | None:
    """Return the local names around an endpoint; None for an endpoint at the top level of a module.

    With ``from __future__ import annotations`` an annotation is a text that may use them.
    """
    caller = frame.f_back if frame is not None else None
    is_inside = caller is not None and caller.f_code.co_flags & inspect.CO_NEWLOCALS
    is_same = caller is not None and caller.f_globals is getattr(function, "__globals__", None)
    return caller.f_locals if caller is not None and is_inside and is_same else None


def _is_websocket(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, WebSocket)


def _find_task(function: Callable[..., Any], signature: inspect.Signature) -> tuple[str, Any]:
    parameters = signature.parameters.values()
    tasks = {item.name: kind for item in parameters if (kind := task_type_of(item.annotation)) is not None}
    if len(tasks) != 1:
        unknown = [item.annotation.__forward_arg__ for item in parameters if isinstance(item.annotation, ForwardRef)]
        raise InvalidArgument(
            f"{function.__qualname__}: exactly one parameter must be annotated with a subclass of BaseTask, "
            f"found {', '.join(tasks) or 'none'}"
            + (f"; {', '.join(unknown)} cannot be found at run time" if unknown else "")
        )
    return tasks.popitem()
