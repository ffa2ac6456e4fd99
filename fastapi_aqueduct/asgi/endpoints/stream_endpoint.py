"""An endpoint whose function is an async generator that gets a task and the stream of its items."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request

from ...flow import Flow, FlowStream
from ..binding.injection import PREFIX, Injected, Injection
from ..errors import raise_http_error
from ..server_timing import stream_timing
from ..streaming.primed import Primed
from ..traceback import untangle
from .endpoint import FlowEndpoint
from .guarded_wait import guarded_wait

VALUES = PREFIX + "values"
"""Name of the one parameter that FastAPI sees of such an endpoint."""


class StreamEndpoint(FlowEndpoint):
    """An endpoint that yields.

    FastAPI sends the head of such a response before it calls the function. So a hidden dependency makes the task, waits
    for its first item, and for the first value of the function. It has all parameters of the request as its own:
    FastAPI calls it last, and only if all of them are valid, whereas it would call an ordinary dependency before it
    validates the parameters of the endpoint.

    The arguments are those of `FlowEndpoint`.
    """

    def wrapper(self) -> Callable[..., Any]:
        """Return the endpoint for FastAPI: an async generator function, with the return annotation of the user's."""
        injection = Injection(self._signature, self._factory)

        async def values_of(**kwargs: Any) -> AsyncIterator[Primed]:
            injected = injection.split(kwargs)
            async with self.values(injected, await self._flow_for(injected.request)) as values:
                yield values

        async def endpoint(**kwargs: Any) -> AsyncIterator[Any]:
            async for value in kwargs[VALUES]:
                yield value

        self._dress(values_of, injection.signature.replace(return_annotation=inspect.Signature.empty))
        values_of.__aqueduct__ = self._binding  # type: ignore[attr-defined]
        hint = Annotated[Primed, Depends(values_of)]
        hidden = inspect.Parameter(VALUES, inspect.Parameter.KEYWORD_ONLY, annotation=hint)
        self._dress(endpoint, injection.signature.replace(parameters=[hidden]))
        endpoint.__flow_endpoint__ = self, endpoint  # type: ignore[attr-defined]
        return endpoint

    @asynccontextmanager
    async def values(self, injected: Injected, flow: Flow) -> AsyncIterator[Primed]:
        """Make the task, begin its stream, and call the function; end all of them with the context.

        Args:
            injected: The values of the parameters.
            flow: The flow of the task.

        Yields:
            The values that the function yields, the first of which is there.

        Raises:
            HTTPException: The request was refused, or its task failed with an error of the flow.
            Exception: The function failed before it yielded.
        """
        request, headers, arguments, others = injected
        started_at = time.monotonic()
        try:
            task, fields = await self._factory.make_with(
                request, flow, arguments, self._fields, self.given_to_task(others)
            )
            received_at = time.monotonic()
            stream = flow.stream(task, self._limits.first, self._limits.item)
        except Exception as exc:
            raise_http_error(request.scope, exc)
        function = self._function(**others, **fields, **{self._task_name: task, self._stream_name: stream})
        async with aclosing(Primed(function, self._limits.deadline(), stream)) as values:
            try:
                await self._begin(request, stream, values)
            except Exception as exc:
                raise_http_error(request.scope, exc)
            if self._is_timed(request.scope):
                upload = received_at - started_at if self._has_uploads else None
                headers.append((b"server-timing", stream_timing(upload, time.monotonic() - received_at)))
            try:
                yield values
            except BaseException as exc:
                untangle(exc)
                raise

    async def _begin(self, request: Request, stream: FlowStream[Any], values: Primed) -> None:
        # A frame of its own, as in `FlowEndpoint`.
        async with guarded_wait(request, values.deadline):
            await stream.wait()
            await values.begin()
