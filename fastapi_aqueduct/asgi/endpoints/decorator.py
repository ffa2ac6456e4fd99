"""The decorator `flow_endpoint`: makes an endpoint of a function that gets a task, finished or with its items."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any

from starlette.websockets import WebSocket

from ...exceptions import ConfigurationError, InvalidArgument
from ...flow import Flow
from ..binding.parameters import streams_in, translated, typed_signature
from ..body.limits import BodyRules, checked_media_types
from ..dependencies import check_flow
from ..settings import UploadLimits
from .collecting_endpoint import CollectingEndpoint
from .endpoint import FlowEndpoint
from .stream_endpoint import StreamEndpoint
from .time_limits import TimeLimits


def flow_endpoint(
    flow: Flow,
    *,
    timeout_sec: float = 5.0,
    media_type: str | Iterable[str] | None = None,
    max_body_size: int | None = None,
    accept_gzip: bool = False,
    upload_limits: UploadLimits | None = None,
    server_timing: bool | None = None,
    item_timeout: float | None = None,
    total_timeout: float | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make an endpoint of a function that gets a finished task, or a task and the stream of its items.

    Args:
        flow: The flow that processes the tasks.
        timeout_sec: Seconds in which the flow must finish a task; of a stream, in which its first item must come.
        media_type: Media type of the upload, or several, such as ``"image/*"``; other types are refused with 415.
        max_body_size: The most bytes of a body; default: that of ``upload_limits``, or FastAPI's own
            ``max_body_size``.
        accept_gzip: Whether a body may have the Content-Encoding gzip; ``max_body_size`` applies before and after
            decompression.
        upload_limits: Limits while the body arrives; default: those of `Aqueduct`.
        server_timing: Whether the response has a header Server-Timing; default: that of `Aqueduct`. The header shows
            clients the names of the steps. That of a stream has the time until its first item.
        item_timeout: Of a stream: seconds in which each further item, and the end, must come; default:
            ``timeout_sec``.
        total_timeout: Of a stream: seconds from its begin to the end of the response; default: no limit.

    Exactly one parameter of the function is annotated with a subclass of `BaseTask`. The parameters of that class's
    constructor become parameters of the request, declared as in any FastAPI endpoint. A parameter of type `Upload`
    gets the body; several get the parts of a multipart form (``list[Upload]``: all parts of a name), beside its
    ``Form()`` fields (`fastapi_aqueduct.params` has these marks for modules that do not import FastAPI). The request is
    validated first; then the flow is asked for a place in its queue; then the body is read into shared memory, the task
    is made and processed, and the function is called. Its other parameters, return annotation and docstring work as in
    FastAPI.

    Example:
            @app.post("/ocr")
            @flow_endpoint(flow)
            async def ocr(task: OcrTask) -> OcrResult:
                return OcrResult(lines=task.lines)

    With a parameter of type `FlowStream` the function gets the task before it is processed, and the items of its
    handlers. An async generator makes a streamed response of them: Server-Sent Events with
    ``response_class=EventSourceResponse``, pieces of ``str`` or ``bytes`` with ``StreamingResponse``, else JSON lines:

            @app.post("/generate", response_class=EventSourceResponse)
            @flow_endpoint(flow, timeout_sec=30, item_timeout=5)
            async def generate(task: Prompt, tokens: FlowStream[str]) -> AsyncIterable[Token]:
                async for text in tokens:
                    yield Token(text=text)

    The status and the headers are sent when the first item has come and the function has yielded, or when it has ended:
    until then a failure has its own status, as without a stream. Later it cuts the connection, after all that was
    yielded before. When the client leaves, the task is cancelled. An ``async def`` function that is no generator
    consumes the stream, and returns a value.

    On a plain Starlette route, ``Route("/ocr", flow_endpoint(flow)(ocr), methods=["POST"])``, parameters come from
    the path and the query, and a pydantic model from the JSON body. The function returns a ``Response``, or a value
    that pydantic can serialize to JSON.

    Raises:
        InvalidArgument: The function has no task or several, several streams, or takes a websocket; it is a generator
            without a stream, or not ``async`` with one; or ``flow`` is no flow.
        ConfigurationError: A request cannot provide a parameter of the task; or a time limit is not positive, or is for
            a stream and the function has none.
    """
    check_flow("@flow_endpoint", flow)
    limits = TimeLimits(timeout_sec, item_timeout, total_timeout)
    rules = BodyRules(
        media_types=checked_media_types(media_type),
        max_body_size=max_body_size,
        limits=upload_limits,
        accept_gzip=accept_gzip,
        wait=lambda: timeout_sec,
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = checked_signature(function, names_around(function, inspect.currentframe()))
        kind = _kind_of(function, signature, limits)
        return kind(function, signature, flow, rules, limits, server_timing).wrapper()

    return decorate


def _kind_of(function: Callable[..., Any], signature: inspect.Signature, limits: TimeLimits) -> type[FlowEndpoint]:
    name = function.__qualname__
    streams = streams_in(signature)
    if len(streams) > 1:
        raise InvalidArgument(f"{name} has several streams ({', '.join(streams)}), but its one task has one")
    if not streams:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidArgument(
                f"{name} is a generator without a stream: take the items of its task, `items: FlowStream[...]`; a "
                "function that gets a finished task returns a StreamingResponse"
            )
        if limits.are_for_streams:
            raise ConfigurationError(
                f"item_timeout and total_timeout are for streams, and {name} has no parameter of type FlowStream"
            )
        return FlowEndpoint
    if inspect.isasyncgenfunction(function):
        return StreamEndpoint
    if not inspect.iscoroutinefunction(function):
        raise InvalidArgument(
            f"{name} gets a stream, which only the event loop can read: make it `async def`, and iterate with "
            f"`async for ... in {streams[0]}`"
        )
    return CollectingEndpoint


def checked_signature(function: Callable[..., Any], local_names: Mapping[str, Any] | None) -> inspect.Signature:
    """Return the signature of a function with evaluated annotations, and with FastAPI's own marks.

    Args:
        function: The function.
        local_names: As `names_around` returns them.

    Raises:
        InvalidArgument: It takes a websocket.
    """
    signature = typed_signature(function, local_names)
    if any(_is_websocket(parameter.annotation) for parameter in signature.parameters.values()):
        raise InvalidArgument(
            f"{function.__qualname__} takes a WebSocket, but flow_endpoint is for HTTP requests; use FlowDep: take "
            "`flow: FlowDep` and call `await flow.process(task)`, or iterate over `flow.stream(task)`"
        )
    parameters = [translated(function.__qualname__, item) for item in signature.parameters.values()]
    return signature.replace(parameters=parameters)


def names_around(function: Callable[..., Any], frame: FrameType | None) -> Mapping[str, Any] | None:
    """Return the local names around an endpoint; None for an endpoint at the top level of a module.

    With ``from __future__ import annotations`` an annotation is a text that may use them.

    Args:
        function: The function.
        frame: That of the decorator, which the function's surroundings have called.
    """
    caller = frame.f_back if frame is not None else None
    is_inside = caller is not None and caller.f_code.co_flags & inspect.CO_NEWLOCALS
    is_same = caller is not None and caller.f_globals is getattr(function, "__globals__", None)
    return caller.f_locals if caller is not None and is_inside and is_same else None


def _is_websocket(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, WebSocket)
