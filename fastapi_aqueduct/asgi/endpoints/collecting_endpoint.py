"""An endpoint whose function consumes the stream of its task, and returns a value."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...flow import Flow
from ...task import BaseTask
from ..binding.injection import Injected
from ..errors import raise_http_error
from .endpoint import FlowEndpoint
from .guarded_wait import guarded_wait


class CollectingEndpoint(FlowEndpoint):
    """An endpoint whose function gets a task and the stream of its items, and returns a value.

    The arguments are those of `FlowEndpoint`.
    """

    async def answer(self, injected: Injected, flow: Flow) -> Any:
        """Make the task, and call the function with the stream of its items; see `FlowEndpoint.answer`."""
        request, headers, arguments, others = injected
        started_at = time.monotonic()
        try:
            result, task, received_at = await self._collect(request, flow, arguments, others)
        except Exception as exc:
            raise_http_error(request.scope, exc)
        if self._is_timed(request.scope):
            target = result.raw_headers if isinstance(result, Response) else headers
            target.append((b"server-timing", self._timing(task, started_at, received_at)))
        return result

    async def _collect(
        self, request: Request, flow: Flow, arguments: dict[str, Any], others: dict[str, Any]
    ) -> tuple[Any, BaseTask, float]:
        given = self.given_to_task(others)
        task, fields = await self._factory.make_with(request, flow, arguments, self._fields, given)
        received_at = time.monotonic()
        async with (
            aclosing(flow.stream(task, self._limits.first, self._limits.item)) as stream,
            guarded_wait(request, self._limits.deadline()),
        ):
            await stream.wait()
            values = {**others, **fields, self._task_name: task, self._stream_name: stream}
            return await self._function(**values), task, received_at
