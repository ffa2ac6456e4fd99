"""`Jobs`: a queue of jobs with its endpoints and routes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from ...exceptions import ConfigurationError
from ...flow import Flow
from ...jobs.queue import JobQueue
from ..body.limits import BodyRules, checked_media_types
from ..dependencies import check_flow
from ..endpoints.decorator import checked_signature, names_around
from ..settings import UploadLimits
from .endpoint import UPLOAD_WAIT, JobEndpoint
from .routes import JobRoutes


class Jobs(JobQueue):
    """Work of minutes, answered with 202 and an id, without a broker.

        jobs = Jobs("jobs.db")
        aqueduct = Aqueduct(flow, jobs=jobs)

        @app.post("/transcripts", status_code=202)
        @jobs.endpoint(flow)
        async def transcribe(job: Job[Whisper]) -> JobStatus:
            return job.status

        app.include_router(jobs.router, prefix="/jobs", dependencies=[Depends(user)])

    A job is on the disk before its request is answered. After a kill of all processes it runs at the next start.

    Args:
        path: The file of the store, on a local disk. Beside it there is a directory with the suffix ``-files``. Only
            the user of the process can read them.
        owner: ``Depends(...)`` of a function that returns the id or the name of the client: text, a number or a UUID.
            A client sees only jobs of its own. None: it sees all of which it knows the id, 128 random bits.
        keep_for: Seconds for which a job that has ended is kept, with its result.
        max_pending: The most jobs that may be in the queue or running; others are refused with 503.
        max_running: The most jobs that may be in a flow at the same time; None: as many as its largest step has
            workers.
        job_timeout: Seconds that a job may take from its start to its end.
        max_retries: How often a job runs again after the end of the process, or of the worker, that ran it. 0: it runs
            at most once, and has failed then.

    Attributes:
        path: As given.
        options: The numbers, as the environment has set them at the start.

    Raises:
        ConfigurationError: A number cannot work, or ``owner`` is no dependency.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        owner: Any = None,
        keep_for: float = 3600.0,
        max_pending: int = 10_000,
        max_running: int | None = None,
        job_timeout: float = 900.0,
        max_retries: int = 2,
    ) -> None:
        super().__init__(
            path,
            keep_for=keep_for,
            max_pending=max_pending,
            max_running=max_running,
            job_timeout=job_timeout,
            max_retries=max_retries,
        )
        if owner is not None and not hasattr(owner, "dependency"):
            raise ConfigurationError(f"Jobs needs owner=Depends(...), got {owner!r}")
        self._owner = owner
        self._route_name = f"{self.path.stem}_job"
        self._results: dict[str, Callable[[Any], Any]] = {}

    def endpoint(
        self,
        flow: Flow,
        *,
        result: Callable[[Any], Any] | None = None,
        media_type: str | Iterable[str] | None = None,
        max_body_size: int | None = None,
        accept_gzip: bool = False,
        upload_limits: UploadLimits | None = None,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make an endpoint of a function that gets a job.

        Exactly one parameter of the function is a `Job` of a subclass of `BaseTask`. The parameters of the constructor
        of that class become parameters of the request, as with `flow_endpoint`. The function is called when the job is
        on the disk; it returns the response, usually ``job.status`` with the status code 202. The response has the
        headers Location, if `router` is a part of the application, and Retry-After.

        A request may have a header Idempotency-Key: another one with the same key gets the job of the first one, and is
        refused with 409 if it asks for something else. A full disk is answered with 507.

        Args:
            flow: The flow that processes the task.
            result: Gets the finished task, and returns what ``/result`` responds with, as an endpoint does. Default:
                the fields that the handlers have set, as a JSON object.
            media_type: As for `flow_endpoint`.
            max_body_size: As for `flow_endpoint`.
            accept_gzip: As for `flow_endpoint`.
            upload_limits: As for `flow_endpoint`.

        Raises:
            InvalidArgument: The function has no job, or several; or ``flow`` is no flow.
            ConfigurationError: A request cannot provide a parameter of the task.
        """
        check_flow("@jobs.endpoint", flow)
        rules = BodyRules(
            media_types=checked_media_types(media_type),
            max_body_size=max_body_size,
            limits=upload_limits,
            accept_gzip=accept_gzip,
            wait=lambda: UPLOAD_WAIT,
        )

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            signature = checked_signature(function, names_around(function, inspect.currentframe()))
            made = JobEndpoint(function, signature, flow, rules, self, self._owner, self._route_name)
            if result is not None:
                self._results[made.name] = result
            return made.wrapper()

        return decorate

    @functools.cached_property
    def router(self) -> APIRouter:
        """The routes of jobs: ``GET /{id}``, ``GET /{id}/result`` and ``DELETE /{id}``.

        ``app.include_router(jobs.router, prefix="/jobs", dependencies=[Depends(user)])``. The first one waits for the
        end of the job with ``?wait=10``, and follows its progress and its items with ``Accept: text/event-stream``.
        """
        return JobRoutes(self, self._owner, self._route_name, self._results).router()
