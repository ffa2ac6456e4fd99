"""An endpoint of a flow: a function, and the flow that processes its tasks."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, ForwardRef

from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Scope

from ...exceptions import ConfigurationError, InvalidArgument
from ...flow import Flow
from ...reports import TaskMetrics
from ...runtime import runtime_of
from ...task import BaseTask
from ..binding.arguments import ArgumentReader, no_field
from ..binding.form import FormFields
from ..binding.injection import Injected, Injection
from ..binding.parameters import streams_in, task_type_of
from ..binding.task_factory import NOTHING, TaskFactory
from ..binding.task_fields import check_task_fields, task_fields_in
from ..binding.uploads import BodyBinding, refusals_of
from ..body.heap import HeapGuard
from ..body.limits import BodyRules, content_length
from ..dependencies import GivenFlow, solve, watch_stream
from ..disconnect import DisconnectWatch
from ..errors import raise_http_error
from ..responses import JSONContent
from ..server_timing import server_timing
from ..settings import settings_of
from ..shutdown import raise_for_shutdown
from ..traceback import Untangled
from .time_limits import TimeLimits


class FlowEndpoint:
    """An endpoint: a function, and the flow that processes its tasks.

    Args:
        function: Gets the finished task.
        signature: Its signature, with evaluated annotations.
        flow: The flow.
        rules: Rules for the body.
        limits: Its time limits.
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
        limits: TimeLimits,
        server_timing: bool | None,
    ) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)
        self.flow = flow
        self._given = GivenFlow(flow)
        self._limits = limits
        self._timeout = limits.first
        self._server_timing = server_timing
        self._task_name, task_type = _find_task(function, signature)
        self._task_fields = task_fields_in(signature)
        self._factory = self._make_factory(task_type, rules)
        self.guard = HeapGuard(rules, flow)
        self.task_names = tuple(self._factory.signature.parameters)
        streams = streams_in(signature)
        self._stream_name = streams[0] if streams else ""
        ours = {self._task_name, *streams}
        others = [parameter for parameter in signature.parameters.values() if parameter.name not in ours]
        self._signature = signature.replace(parameters=others)
        self._fields: FormFields | None = None
        self._has_uploads = bool(self._factory.uploads.parts)
        if self._has_uploads:
            self._fields = FormFields(function.__qualname__, self._signature, self._factory.uploads.raw)
            self._signature = self._fields.rest
        check_task_fields(function.__qualname__, self._task_fields, self._fields.names if self._fields else ())

    def wrapper(self) -> Callable[..., Any]:
        """Return the endpoint, for FastAPI and for Starlette."""
        injection = Injection(self._signature, self._factory)

        async def endpoint(*args: Any, **kwargs: Any) -> Any:
            if args:
                return await self.answer_plainly(*args)
            injected = injection.split(kwargs)
            result = await self.answer(injected, await self._flow_for(injected.request))
            if isinstance(result, StreamingResponse):
                watch_stream(injected.request)
            return result

        self._dress(endpoint, injection.signature)
        endpoint.__aqueduct__ = self._binding  # type: ignore[attr-defined]
        endpoint.__flow_endpoint__ = self, endpoint  # type: ignore[attr-defined]
        return endpoint

    def _make_factory(self, task_type: Any, rules: BodyRules) -> TaskFactory[Any]:
        return TaskFactory(task_type, rules, self._timeout, self._task_fields)

    def given_to_task(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields of the task that the endpoint sets.

        Args:
            values: The values of the function's parameters.
        """
        return {name: values[name] for name in self._task_fields} if self._task_fields else NOTHING

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
            task, fields, received_at = await self._process(request, flow, arguments, self.given_to_task(others))
        except Exception as exc:
            raise_http_error(request.scope, exc)
        others |= fields
        others[self._task_name] = task
        result = await (self._function(**others) if self._is_async else run_in_threadpool(self._function, **others))
        if self._is_timed(request.scope):
            # FastAPI adds the headers of the injected response to every response that the function does not make.
            target = result.raw_headers if isinstance(result, Response) else headers
            target.append((b"server-timing", self._timing(task, started_at, received_at)))
        return result

    async def answer_plainly(self, request: Request) -> Any:
        """Answer a request on a plain Starlette route, which FastAPI does not see."""
        ours, others = self._readers
        headers: list[tuple[bytes, bytes]] = []
        try:
            body = b""
            if ours.bodies or others.bodies:
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
        ours, others = ArgumentReader(self._factory.signature), ArgumentReader(self._signature)
        if len(bodies := ours.bodies + others.bodies) > 1:
            raise ConfigurationError(no_field(bodies))
        return ours, others

    async def _process(
        self, request: Request, flow: Flow, arguments: dict[str, Any], given: Mapping[str, Any]
    ) -> tuple[BaseTask, dict[str, Any], float]:
        # A frame of its own, to which the response to an error does not refer: hypercorn keeps the response after the
        # client of an HTTP/2 connection has disconnected, and would keep the task and its blocks too.
        if self._has_uploads:
            task, fields = await self._factory.make_with(request, flow, arguments, self._fields, given)
        else:
            task, fields = self._factory.make_at_once(flow, arguments, given), {}
        received_at = time.monotonic()
        try:
            with DisconnectWatch(request.receive):
                await flow.process(task, self._timeout)
        except asyncio.CancelledError as exc:
            raise_for_shutdown(request.scope, exc)
        return task, fields, received_at

    async def _flow_for(self, request: Request) -> Flow:
        # Not a dependency: one only for tests would cost each request a fifth of FastAPI's whole time.
        overrides = getattr(request.app, "dependency_overrides", None)
        override = overrides.get(self._given) if overrides else None
        flow: Flow = self.flow if override is None else await solve(override, request)
        return flow

    @property
    def _binding(self) -> BodyBinding:
        return self._factory.binding(self.guard, self._fields)._replace(refusals=self._refusals)

    @property
    def _refusals(self) -> frozenset[int]:
        """The status codes of refusals that other endpoints do not have."""
        return refusals_of(self.flow)

    def _dress(self, function: Callable[..., Any], signature: inspect.Signature) -> None:
        """Give a function the name, the docstring and the module of the user's one, and a signature for FastAPI."""
        functools.update_wrapper(function, self._function)
        # With it FastAPI would use the signature of the user's function.
        del function.__wrapped__  # type: ignore[attr-defined]
        function.__signature__ = signature  # type: ignore[attr-defined]

    def _timing(self, task: BaseTask, started_at: float, received_at: float) -> bytes:
        upload = received_at - started_at if self._has_uploads else None
        metrics = TaskMetrics.of(*runtime_of(task).get("metrics", ((), 0.0)))  # a field may hide task.metrics
        return server_timing(upload, metrics.steps, time.monotonic() - started_at)

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
