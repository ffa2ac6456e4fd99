"""The routes that tell of jobs."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import EventSourceResponse
from fastapi.sse import ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ...jobs.queue import JobQueue
from ...jobs.status import JobItem, JobStatus
from ...task import BaseTask
from ..endpoints.stream_response import stream_response
from ..errors import http_errors
from .endpoint import OWNER, retry_after
from .owner import owner_text
from .result import default_result

MAX_WAIT = 60.0
"""The most seconds that a request may wait for a job: proxies cut silent connections after as many."""

Results = Mapping[str, Callable[[Any], Any]]
"""By the name of an endpoint: makes what a client gets of a finished task."""


class JobRoutes:
    """Three routes for each job: what is known of it, its result, and its end.

    Args:
        queue: The jobs.
        owner: The dependency that says whose jobs a client sees; None: all of them.
        name: Name of the first route.
        results: Makes what clients get.
    """

    def __init__(self, queue: JobQueue, owner: Any, name: str, results: Results) -> None:
        self._queue = queue
        self._owner = owner
        self._name = name
        self._results = results

    def router(self) -> APIRouter:
        """Return a router with the routes, which FastAPI can include with a prefix and dependencies."""
        router = APIRouter()
        missing: dict[int | str, dict[str, Any]] = {
            404: {"description": "There is no such job"},
            503: {"description": "The store of jobs cannot be used, or the server stops"},
        }
        events: dict[str, Any] = {"description": "What becomes of the job", "content": {"text/event-stream": {}}}
        router.add_api_route(
            "/{job_id}",
            self._owned(self.read_job),
            methods=["GET"],
            name=self._name,
            response_model=JobStatus,
            responses={**missing, 200: events},
        )
        router.add_api_route(
            "/{job_id}/result",
            self._owned(self.read_result),
            methods=["GET"],
            response_model=None,
            responses={**missing, 409: {"description": "The job has no result, or none yet"}},
        )
        router.add_api_route(
            "/{job_id}", self._owned(self.delete_job), methods=["DELETE"], status_code=204, responses=missing
        )
        return router

    async def read_job(
        self,
        request: Request,
        response: Response,
        job_id: str,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT, description="Seconds to wait for its end")] = 0.0,
        last_event_id: Annotated[int, Header(ge=0, description="Of the last item that is known")] = 0,
        *,
        aqueduct_owner: str | None,
    ) -> Any:
        """Return what is known of a job; with `Accept: text/event-stream` its progress and its items as they come."""
        with http_errors(request.scope):
            if EventSourceResponse.media_type in request.headers.get("accept", ""):
                status = await self._queue.status(job_id, aqueduct_owner)
                events = _events(self._queue.follow(status.id, last_event_id, aqueduct_owner))
                return await stream_response(request, events, EventSourceResponse)
            status = await self._queue.wait(job_id, wait, aqueduct_owner)
        response.headers["Cache-Control"] = "no-store"
        if not status.is_finished:
            response.headers["Retry-After"] = retry_after(status).decode()
        return status

    async def read_result(self, request: Request, job_id: str, *, aqueduct_owner: str | None) -> Any:
        """Return the result of a job that has completed."""
        with http_errors(request.scope):
            record = await self._queue.record(job_id, aqueduct_owner)
            task = await self._queue.result(job_id, aqueduct_owner)
        return await _made(self._results.get(record.endpoint, default_result), task)

    async def delete_job(self, request: Request, job_id: str, *, aqueduct_owner: str | None) -> None:
        """Cancel a job; or remove one that has ended, with its result."""
        with http_errors(request.scope):
            await self._queue.discard(job_id, aqueduct_owner)

    def _owned(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a route's function whose owner FastAPI injects."""
        owner = self._owner

        async def route(**values: Any) -> Any:
            found = None if owner is None else owner_text(values.pop(OWNER))
            return await function(**values, aqueduct_owner=found)

        signature = inspect.signature(function, eval_str=True)
        parameters = [
            item.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for item in signature.parameters.values()
            if item.name != OWNER
        ]
        if owner is not None:
            parameters.append(
                inspect.Parameter(OWNER, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Any, owner])
            )
        route.__name__, route.__qualname__, route.__doc__ = function.__name__, function.__qualname__, function.__doc__
        route.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        route.__jobs__ = self._queue  # type: ignore[attr-defined]
        return route


async def _events(changes: AsyncIterator[JobStatus | JobItem]) -> AsyncIterator[ServerSentEvent]:
    async for change in changes:
        if isinstance(change, JobItem):
            yield ServerSentEvent(event="item", id=str(change.number), data=change.value)
        else:
            yield ServerSentEvent(event="status", data=change)


async def _made(make: Callable[[Any], Any], task: BaseTask) -> Any:
    if inspect.iscoroutinefunction(make):
        return await make(task)
    return await run_in_threadpool(make, task)
