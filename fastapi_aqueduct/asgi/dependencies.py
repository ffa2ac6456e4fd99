"""Flows and tasks as dependencies of FastAPI, for endpoints that drive a flow themselves.

Example:
        @app.post("/ocr")
        async def ocr(task: Annotated[OcrTask, FlowTask()], flow: FlowDep) -> OcrResult:
            await flow.process(task)
            return OcrResult(lines=task.lines)
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_origin

from fastapi import Depends, Request, params
from fastapi.dependencies.utils import get_dependant, solve_dependencies
from fastapi.exceptions import RequestValidationError
from starlette.requests import HTTPConnection

from ..exceptions import ConfigurationError, InvalidArgument, UsageError
from ..flow import Flow
from ..task import BaseTask
from .binding.parameters import task_type_of
from .binding.task_factory import TaskFactory
from .binding.uploads import HOW_TO_START, refusals_of
from .body.heap import HeapGuard
from .body.limits import BodyRules, checked_media_types
from .disconnect import watch_caller
from .errors import http_errors
from .settings import UploadLimits, settings_of
from .traceback import untangle

RESERVE_TIMEOUT = 5.0
"""Seconds that the upload of a `FlowTask` may wait for shared memory."""


async def get_flow(connection: HTTPConnection) -> AsyncIterator[Flow]:
    """Return the flow of the application. Also the key for ``app.dependency_overrides``.

    Errors of the flow that the endpoint does not handle become HTTP responses.

    Args:
        connection: The request or the websocket.

    Yields:
        The flow.

    Raises:
        UsageError: The application has no `Aqueduct`, or its lifespan has not run.
        ConfigurationError: The application has several flows.
    """
    flow = _only_flow(connection)
    watch_caller(connection)
    with http_errors(connection.scope):
        yield flow


FlowDep: TypeAlias = Annotated[Flow, Depends(get_flow)]
"""The flow of the application, as a parameter of an endpoint: ``flow: FlowDep``.

For applications with one flow; `Flow.process` ends with ``ClientDisconnect`` when the client disconnects."""


@dataclass(frozen=True)
class GivenFlow:
    """Dependency that returns the flow that an endpoint names.

    Two objects of the same flow are equal, so ``app.dependency_overrides[GivenFlow(flow)]`` replaces it in tests.

    Attributes:
        flow: The flow.
    """

    flow: Flow

    async def __call__(self) -> Flow:
        """Return the flow."""
        return self.flow


def check_flow(where: str, flow: object) -> None:
    """Refuse a value that is no flow.

    Args:
        where: Name of the decorator or class that needs the flow, for the message.
        flow: The value.

    Raises:
        InvalidArgument: The value is no flow.
    """
    if isinstance(flow, Flow):
        return
    name = getattr(flow, "__qualname__", "")
    is_bare = name and not isinstance(flow, type)
    got = f"the function {name}" if is_bare else f"the class {name}" if name else repr(flow)
    advice = f"write {where}(flow)" + " above the function" * bool(is_bare)
    raise InvalidArgument(f"{where} needs its flow, got {got}; {advice}")


async def solve(dependency: Callable[..., Any], request: Request) -> Any:
    """Return the value of a dependency for a request, solved by FastAPI after the others.

    Args:
        dependency: The dependency.
        request: The request.

    Raises:
        RequestValidationError: Parameters of the dependency are missing or invalid.
    """

    def ask(value: Any) -> None: ...

    ask.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("value", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Any, Depends(dependency)])]
    )
    solved = await solve_dependencies(
        request=request,
        dependant=get_dependant(path="", call=ask),
        async_exit_stack=request.scope["fastapi_inner_astack"],
        embed_body_fields=False,
    )
    if solved.errors:
        raise RequestValidationError(solved.errors)
    return solved.values["value"]


def watch_stream(connection: HTTPConnection) -> None:
    """Break the cycles of an exception that ends a streamed response; called before FastAPI sends it."""
    # FastAPI closes this stack when the response was sent.
    stack = connection.scope.get("fastapi_inner_astack")
    if isinstance(stack, AsyncExitStack):
        stack.push(_untangle)


def _untangle(exc_type: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
    if exc is not None:
        untangle(exc)


async def get_request(request: Request) -> AsyncIterator[Request]:
    """Yield the request; errors of the flow that the endpoint does not handle become HTTP responses.

    A dependency of its own, because FastAPI injects a request into one parameter of a function only, and the user's
    function may have one. It is not the dependency that makes the task either: FastAPI keeps the value that a
    dependency yields as long as the exception that it replaces, see `_forget_frames` of ``errors``.
    """
    watch_caller(request)
    with http_errors(request.scope):
        yield request


@dataclass(frozen=True)
class BodyDependency(params.Depends):
    """A dependency that gets the body of the request. FastAPI sets the annotated type with dataclasses.replace.

    Attributes:
        media_type: As for `flow_endpoint`.
        max_body_size: As for `flow_endpoint`.
        accept_gzip: As for `flow_endpoint`.
        upload_limits: As for `flow_endpoint`.
    """

    dependency: Callable[..., Any] | None = dataclasses.field(default=None, kw_only=True)
    use_cache: bool = dataclasses.field(default=True, kw_only=True)
    scope: Literal["function", "request"] | None = dataclasses.field(default=None, kw_only=True)
    media_type: str | tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True)
    max_body_size: int | None = dataclasses.field(default=None, kw_only=True)
    accept_gzip: bool = dataclasses.field(default=False, kw_only=True)
    upload_limits: UploadLimits | None = dataclasses.field(default=None, kw_only=True)

    def _rules(self, wait: Callable[[], float]) -> BodyRules:
        return BodyRules(
            media_types=checked_media_types(self.media_type),
            max_body_size=self.max_body_size,
            limits=self.upload_limits,
            accept_gzip=self.accept_gzip,
            wait=wait,
        )


@dataclass(frozen=True)
class FlowTask(BodyDependency):
    """Makes a task from the request: ``task: Annotated[OcrTask, FlowTask()]``.

    The parameters of the task's constructor become parameters of the request, and a parameter of type `Upload` gets the
    body, which is streamed into shared memory before the endpoint is called. The task is not processed. While the
    endpoint processes it with `Flow.process`, a client that disconnects ends that call with ``ClientDisconnect``.

    FastAPI runs dependencies before it validates the endpoint's own parameters, so a request with an invalid query is
    refused only after its body was read. `flow_endpoint` refuses it before.

    Attributes:
        flow: The flow of the task; None: the only flow of the application.
        media_type: As for `flow_endpoint`.
        max_body_size: As for `flow_endpoint`.
        accept_gzip: As for `flow_endpoint`.
        upload_limits: As for `flow_endpoint`.
    """

    flow: Flow | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow is not None:
            check_flow("FlowTask", self.flow)
        if isinstance(get_origin(self.dependency) or self.dependency, type):
            object.__setattr__(self, "dependency", self._dependency(self.dependency))

    def _dependency(self, kind: Any) -> Callable[..., Awaitable[BaseTask]]:
        task_type = task_type_of(kind)
        if task_type is None:
            name = getattr(kind, "__qualname__", repr(kind))
            raise InvalidArgument(f"FlowTask() makes tasks, and {name} is not a subclass of BaseTask")
        rules = self._rules(lambda: RESERVE_TIMEOUT)
        factory: TaskFactory[Any] = TaskFactory(task_type, rules, RESERVE_TIMEOUT)
        source = get_flow if self.flow is None else GivenFlow(self.flow)

        async def make_task(request: Request, flow: Flow, arguments: dict[str, Any]) -> BaseTask:
            task: BaseTask = await factory.make(request, flow, arguments)
            return task

        make_task.__signature__ = hidden_parameters(source, factory)  # type: ignore[attr-defined]
        binding = factory.binding(HeapGuard(rules, self.flow))
        if self.flow is not None:
            binding = binding._replace(refusals=refusals_of(self.flow))
        make_task.__aqueduct__ = binding  # type: ignore[attr-defined]
        return make_task


def hidden_parameters(source: Callable[..., Any], factory: TaskFactory[Any]) -> inspect.Signature:
    """Return the signature with which FastAPI injects ``request``, ``flow`` and ``arguments``.

    Args:
        source: The dependency that returns the flow.
        factory: Has the parameters of the task.
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    wanted = {
        "request": Annotated[Request, Depends(get_request)],
        "flow": Annotated[Flow, Depends(source)],
        "arguments": Annotated[dict[str, Any], Depends(factory.dependency())],
    }
    return inspect.Signature([inspect.Parameter(name, kind, annotation=hint) for name, hint in wanted.items()])


def _only_flow(connection: HTTPConnection) -> Flow:
    settings = settings_of(connection.scope)
    if settings is None:
        raise UsageError(f"this application has no flow: {HOW_TO_START}")
    flows = settings.flows
    if len(flows) > 1:
        names = ", ".join(flow.name for flow in flows)
        raise ConfigurationError(f"the application has several flows ({names}); name one: FlowTask(flow)")
    return flows[0]
