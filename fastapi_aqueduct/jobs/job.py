"""A handle of a job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from ..exceptions import ConfigurationError, UsageError
from ..task import BaseTask
from .status import JobItem, JobStatus

T = TypeVar("T", bound=BaseTask)


class JobSource(Protocol):
    """The queue of a job, as its handle uses it."""

    async def status(self, job: str) -> JobStatus:
        """Return what is known of a job."""

    async def wait(self, job: str, timeout: float | None = None) -> JobStatus:
        """Wait until a job has ended."""

    async def result(self, job: str) -> BaseTask:
        """Return the finished task of a job."""

    async def cancel(self, job: str) -> bool:
        """Cancel a job."""

    def follow(self, job: str, after: int = 0) -> AsyncIterator[JobStatus | JobItem]:
        """Iterate over what becomes of a job."""


class Job(Generic[T]):
    """A job: ``await job`` waits until it has ended, and returns the finished task.

    Args:
        queue: Its queue.
        id: Its id.
        status: What is known of it; None: nothing yet.

    Attributes:
        id: As given.
    """

    def __init__(self, queue: JobSource, id: str, status: JobStatus | None = None) -> None:
        self.id = id
        self._queue = queue
        self._status = status

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> NoReturn:
        """Refuse a schema; FastAPI asks for one where a job is an ordinary parameter.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            "a Job is no ordinary parameter or response model of an endpoint: put @jobs.endpoint(flow) directly above "
            "the function, below @app.post(...), and return job.status"
        )

    @property
    def status(self) -> JobStatus:
        """What was known of it when it was submitted, or when it was read the last time.

        Raises:
            UsageError: It was not read yet.
        """
        if self._status is None:
            raise UsageError(f"job {self.id} was not read yet: call `await job.refresh()`")
        return self._status

    async def refresh(self) -> JobStatus:
        """Read what is known of it now.

        Raises:
            JobNotFound: There is no such job.
            UsageError: The queue does not run.
        """
        self._status = await self._queue.status(self.id)
        return self._status

    async def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait until it has ended; return what is known of it, also when it has not ended in time.

        Args:
            timeout: Seconds to wait; None: no limit.

        Raises:
            JobNotFound, UsageError: As for `refresh`.

        A cancellation ends the wait, and not the job.
        """
        self._status = await self._queue.wait(self.id, timeout)
        return self._status

    async def result(self) -> T:
        """Return its finished task. Its large fields are views on a file.

        Raises:
            JobNotFinished: It is in the queue or running.
            JobFailed: It has failed.
            JobCancelled: It was cancelled.
            JobNotFound, UsageError: As for `refresh`.
        """
        task: Any = await self._queue.result(self.id)
        return task  # type: ignore[no-any-return]

    async def cancel(self) -> bool:
        """Take it out of the queue, or cancel it while it runs; return False if it has ended.

        Raises:
            JobNotFound, UsageError: As for `refresh`.
        """
        return await self._queue.cancel(self.id)

    def follow(self, after: int = 0) -> AsyncIterator[JobStatus | JobItem]:
        """Iterate over what becomes of it: its status now and after each change, and its items; until it has ended.

        Args:
            after: The number of the last item that is known.

        Raises:
            JobNotFound, UsageError: As for `refresh`.
        """
        return self._queue.follow(self.id, after)

    def __await__(self) -> Generator[Any, None, T]:
        return self._finish().__await__()

    async def _finish(self) -> T:
        await self.wait()
        return await self.result()

    def __repr__(self) -> str:
        state = "" if self._status is None else f" {self._status.state}"
        return f"<Job {self.id}{state}>"
