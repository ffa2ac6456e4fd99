"""`stream_response`: streams the values of an asynchronous iterator, for endpoints without `flow_endpoint`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import EventSourceResponse, StreamingResponse
from starlette.requests import Request
from starlette.responses import Response

from ...exceptions import InvalidArgument, got
from ..errors import raise_http_error
from ..streaming.formats import Format, JSONLines, Pieces, ServerSentEvents, dump_any
from ..streaming.primed import Primed
from ..streaming.response import ItemResponse
from .guarded_wait import guarded_wait


async def stream_response(
    request: Request, values: AsyncIterator[Any], response_class: type[Response] | None = None
) -> Response:
    """Wait for the first value of an iterator, and return the response that streams all of them.

    For plain Starlette routes, and for endpoints that stream only when they are asked to:

        async def generate(request: Request) -> Response:
            prompt = Prompt(**await request.json())
            if not prompt.stream:
                return JSONResponse((await flow.process(prompt)).answer)
            return await stream_response(request, flow.stream(prompt), EventSourceResponse)

    As with `flow_endpoint`, a failure before the first value has a status of its own, a later one cuts the connection
    after all values before it, and the iterator is closed when the client leaves.

    Args:
        request: The request; its body has been read.
        values: A stream of a flow, or an async generator that iterates over one.
        response_class: As of a route in FastAPI: ``EventSourceResponse`` for Server-Sent Events, ``StreamingResponse``
            for pieces of ``str`` or ``bytes``, None for JSON lines.

    Returns:
        The response. Its ``status_code`` and its ``headers`` can be changed until it is sent.

    Raises:
        HTTPException: The flow has refused or failed the task, as `flow_endpoint` answers it.
        InvalidArgument: There is no streamed response of this class.
        Exception: What the iterator raises before its first value.
    """
    if response_class not in _FORMATS:
        names = ", ".join(getattr(key, "__name__", "None") for key in _FORMATS)
        raise InvalidArgument(f"response_class of stream_response must be one of {names}, {got(response_class)}")
    primed = Primed(values, None)
    try:
        async with guarded_wait(request, None):
            await primed.begin()
    except Exception as exc:
        raise_http_error(request.scope, exc)
    return ItemResponse(primed, _FORMATS[response_class])


_FORMATS: dict[type[Response] | None, Format] = {
    EventSourceResponse: ServerSentEvents(dump_any),
    StreamingResponse: Pieces(),
    None: JSONLines(dump_any),
}
