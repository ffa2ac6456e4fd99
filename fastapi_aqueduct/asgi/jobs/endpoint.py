"""An endpoint that accepts a job: a function that gets the job, and the flow that processes its task later."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_origin

from fastapi import Header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.routing import NoMatchFound

from ...exceptions import ConfigurationError, InvalidArgument
from ...flow import Flow
from ...jobs.job import Job
from ...jobs.status import JobStatus
from ...task import BaseTask
from ..binding.injection import PREFIX, Injected, Injection
from ..binding.parameters import constructor_parameters
from ..binding.task_factory import TaskFactory
from ..body.limits import BodyRules
from ..endpoints.endpoint import FlowEndpoint
from ..endpoints.time_limits import TimeLimits
from ..errors import raise_http_error
from .fingerprint import fingerprint_of
from .owner import owner_text

KEY, OWNER = PREFIX + "key", PREFIX + "owner"
"""Names of the parameters that only FastAPI sees."""

MAX_KEY = 255
"""The most characters of an Idempotency-Key."""

UPLOAD_WAIT = 5.0
"""Seconds that the upload of a job may wait for shared memory."""

MAX_RETRY_AFTER = 60
"""The most seconds after which a client is asked to look again."""

T = TypeVar("T", bound=BaseTask)


class Acceptance(Protocol):
    """The queue, as an endpoint uses it."""

    async def check_place(self) -> None:
        """Refuse a job before its body is read."""

    async def accept(
        self, task: T, flow: Flow, *, endpoint: str, owner: str, key: str | None, fingerprint: bytes | None
    ) -> tuple[Job[T], bool]:
        """Accept a task as a job."""


class JobEndpoint(FlowEndpoint):
    """An endpoint whose function gets a job.

    Args:
        function: Gets the job.
        signature: Its signature, with evaluated annotations.
        flow: The flow.
        rules: Rules for the body.
        queue: Accepts the job.
        owner: The dependency that says whose the job is; None: it has no owner.
        route_name: Name of the route that tells of a job.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        signature: inspect.Signature,
        flow: Flow,
        rules: BodyRules,
        queue: Acceptance,
        owner: Any,
        route_name: str,
    ) -> None:
        signature = _with_tasks(function, signature)
        super().__init__(function, signature, flow, rules, TimeLimits(UPLOAD_WAIT), None)
        self.name = f"{function.__module__}.{function.__qualname__}"
        self._queue = queue
        self._route_name = route_name
        # Not what the endpoint sets: that may be another priority when a request is sent again.
        self._inputs = frozenset(constructor_parameters(self._factory.task_type)) - set(self._task_fields)
        key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=MAX_KEY)]
        self._signature = self._signature.replace(
            parameters=[
                *(item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in self._signature.parameters.values()),
                inspect.Parameter(KEY, inspect.Parameter.KEYWORD_ONLY, annotation=key, default=None),
                *_owner_parameter(owner),
            ]
        )

    def _make_factory(self, task_type: Any, rules: BodyRules) -> TaskFactory[Any]:
        return TaskFactory(task_type, rules, None, self._task_fields)

    @property
    def _refusals(self) -> frozenset[int]:
        return frozenset({409, 507})

    def wrapper(self) -> Callable[..., Any]:
        """Return the endpoint for FastAPI."""
        injection = Injection(self._signature, self._factory)

        async def endpoint(*args: Any, **kwargs: Any) -> Any:
            if args:
                raise ConfigurationError(f"{self.name}: @jobs.endpoint is for routes of FastAPI only")
            return await self.answer(injection.split(kwargs), self.flow)

        self._dress(endpoint, injection.signature)
        endpoint.__aqueduct__ = self._binding  # type: ignore[attr-defined]
        # Not the endpoint itself: FastAPI's own handler answers, which knows the dependencies.
        endpoint.__flow_endpoint__ = self, None  # type: ignore[attr-defined]
        endpoint.__jobs__ = self._queue  # type: ignore[attr-defined]
        return endpoint

    async def answer(self, injected: Injected, flow: Flow) -> Any:
        """Accept a job, and call the function.

        Args:
            injected: The values of the parameters.
            flow: The flow of the task.

        Returns:
            The result of the function.

        Raises:
            HTTPException: The request was refused.
        """
        request, headers, _, others = injected
        try:
            job, fields = await self._accept(injected, flow, others.pop(KEY), owner_text(others.pop(OWNER, None)))
        except Exception as exc:
            raise_http_error(request.scope, exc)
        others |= fields
        others[self._task_name] = job
        headers.append((b"retry-after", retry_after(job.status)))
        if (location := self._location(request, job.id)) is not None:
            headers.append((b"location", location.encode("latin-1")))
        return await (self._function(**others) if self._is_async else run_in_threadpool(self._function, **others))

    async def _accept(
        self, injected: Injected, flow: Flow, key: str | None, owner: str
    ) -> tuple[Job[BaseTask], dict[str, Any]]:
        # A frame of its own, to which the response does not refer; see `FlowEndpoint._process`.
        if key is None:  # else the job may be there already
            await self._queue.check_place()
        given = self.given_to_task(injected.others)
        task, fields = await self._factory.make_with(
            injected.request, flow, injected.arguments, self._fields, given
        )
        fingerprint = None
        if key is not None:
            fingerprint = await asyncio.to_thread(fingerprint_of, task, self._inputs, injected.arguments)
        job, _ = await self._queue.accept(
            task, flow, endpoint=self.name, owner=owner, key=key, fingerprint=fingerprint
        )
        return job, fields

    def _location(self, request: Request, job: str) -> str | None:
        """Return the path of a job; None if the routes of jobs are not a part of the application."""
        try:
            return request.url_for(self._route_name, job_id=job).path
        except NoMatchFound:
            return None


def retry_after(status: JobStatus) -> bytes:
    """Return in how many seconds a client should look at a job again."""
    expected = 1.0 if status.expected_time is None else status.expected_time
    return str(min(max(1, math.ceil(expected)), MAX_RETRY_AFTER)).encode()


def _owner_parameter(owner: Any) -> list[inspect.Parameter]:
    if owner is None:
        return []
    return [inspect.Parameter(OWNER, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Any, owner])]


def _with_tasks(function: Callable[..., Any], signature: inspect.Signature) -> inspect.Signature:
    """Return a signature in which the job is its task."""
    parameters = [
        item.replace(annotation=_task_of(function, item)) if _is_job(item.annotation) else item
        for item in signature.parameters.values()
    ]
    if parameters == list(signature.parameters.values()):
        raise InvalidArgument(
            f"{function.__qualname__}: exactly one parameter must be a job, annotated with its task: `job: Job[Scan]`"
        )
    return signature.replace(parameters=parameters)


def _is_job(annotation: Any) -> bool:
    return annotation is Job or get_origin(annotation) is Job


def _task_of(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    if not get_args(parameter.annotation):
        raise InvalidArgument(
            f"{function.__qualname__}: {parameter.name} is a Job of no task; name it: `{parameter.name}: Job[Scan]`"
        )
    return get_args(parameter.annotation)[0]


