"""The queue of jobs: accepts them, has them run, and tells what became of them."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..engine.wire.packing import Packed, pack, unpack_value
from ..exceptions import (
    ConfigurationError,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    JobNotFinished,
    JobNotFound,
    TooManyJobs,
    UsageError,
    got,
)
from ..flow import Flow
from ..logger import log
from ..task import BaseTask
from .bells import Bells
from .changes import Changes
from .job import Job
from .lock import StoreLock
from .options import JobOptions
from .ownership import Ownership
from .records import NewJob, Outlook, Record, status_of
from .runner import slots_of
from .spool import RESULT, TASK, Spool
from .statistics import JobStatistics
from .status import JobItem, JobState, JobStatus
from .store import Store
from .tenure import Tenure

R = TypeVar("R")
T = TypeVar("T", bound=BaseTask)

PAGE = 100
"""How many items are read at a time."""


class JobQueue:
    """Tasks that are answered later: accepted into a file, and run by the flows of an application.

    Args:
        path: The file of the store. Beside it there is a directory with the suffix ``-files``.
        keep_for: As of `JobOptions`.
        max_pending: As of `JobOptions`.
        max_running: As of `JobOptions`.
        job_timeout: As of `JobOptions`.
        max_retries: As of `JobOptions`.

    Attributes:
        options: The numbers, as the environment has set them at the start.

    Raises:
        ConfigurationError: A number cannot work.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        keep_for: float = 3600.0,
        max_pending: int = 10_000,
        max_running: int | None = None,
        job_timeout: float = 900.0,
        max_retries: int = 2,
    ) -> None:
        self.path = Path(path)
        self._declared = self.options = JobOptions(
            keep_for=keep_for,
            max_pending=max_pending,
            max_running=max_running,
            job_timeout=job_timeout,
            max_retries=max_retries,
        )
        files = self.path.with_name(self.path.name + "-files")
        self._store = Store(self.path)
        self._spool = Spool(files)
        self._ownership = Ownership(self.path, StoreLock(files))
        self._bells = Bells(files / "bells")
        self._changes = Changes(self._bells.ring)
        self._flows: dict[str, Flow] = {}
        self._changing: set[asyncio.Task[Any]] = set()
        self._is_open = False

    # The life of the queue

    async def start(self, flows: Sequence[Flow], is_shared: bool = False) -> None:
        """Open the store, take up the jobs that a process before has left, and run jobs.

        Args:
            flows: The flows of the application, which run.
            is_shared: Whether other processes have the same flows: then one of them runs the jobs, and all of them
                accept jobs and tell of them. Otherwise this waits for the end of a process that has the store.

        Raises:
            StoreInUse: Another process has the store.
            StoreError: The store cannot be used.
            ConfigurationError: Two flows have one name, or a variable of the environment is wrong.
        """
        self.options = self._declared.read()
        self._flows = {flow.name: flow for flow in flows}
        if len(self._flows) < len(flows):
            raise ConfigurationError('jobs know their flows by name: give each flow its own, Flow(..., name="ocr")')
        self._changes.begin()
        self._ownership.resume()
        await asyncio.to_thread(self._spool.open)
        try:
            if not is_shared:
                await self._ownership.take(max(flow.stop_timeout for flow in flows))
            await self._store.open()
            self._is_open = True
            if is_shared:
                self._bells.open(self._on_ring)
            await self._ownership.begin(self._make_tenure)
        except BaseException:
            await self.stop()
            raise

    def _make_tenure(self) -> Tenure:
        return Tenure(self._flows, self._store, self._spool, self.options, self._changes)

    def pause(self) -> None:
        """Begin no more jobs: the server is about to stop. Jobs are still accepted, for its next start."""
        self._ownership.pause()

    def end_waits(self) -> None:
        """End the calls that wait for a job: a server that stops waits for open responses."""
        self._changes.end()

    async def stop(self) -> None:
        """Stop, with the flows stopped before. What still runs goes back to the queue. May be called more than once."""
        self.pause()
        self.end_waits()
        try:
            await self._ownership.end()
        finally:
            self._is_open = False
            await asyncio.gather(*self._changing, return_exceptions=True)
            self._bells.ring_now()
            self._bells.close()
            await self._store.close()
            self._ownership.release()

    def _on_ring(self) -> None:
        self._changes.wake_all()
        self._ownership.follow_others()

    # The jobs

    def statistics(self) -> dict[str, JobStatistics]:
        """Count the jobs, by flow: read from the file in the calling thread. Empty where another process runs them."""
        if self._ownership.tenure is None:
            return {}
        try:
            return self._store.statistics(self._flows)
        except sqlite3.Error as exc:
            log.warning("jobs in %s cannot be counted: %s", self.path, str(exc))
            return {}

    async def submit(self, task: T, flow: Flow | None = None) -> Job[T]:
        """Accept a task as a job. When this returns, it is on the disk, and runs even if this process is killed.

        Args:
            task: The task.
            flow: Its flow; None: the only one of the application.

        Returns:
            The job.

        Raises:
            TooManyJobs: ``max_pending`` jobs are pending.
            StoreFull: The disk is full.
            TaskNotPicklable: A field cannot be stored.
            UsageError: The queue does not run.
            ConfigurationError: The application has several flows, or not this one.

        A cancellation may leave the job accepted.
        """
        job, _ = await self.accept(task, self._flow(flow))
        return job

    async def accept(
        self,
        task: T,
        flow: Flow,
        *,
        endpoint: str = "",
        owner: str = "",
        key: str | None = None,
        fingerprint: bytes | None = None,
    ) -> tuple[Job[T], bool]:
        """Accept a task of a request as a job, as `submit` does.

        Args:
            task: The task.
            flow: Its flow.
            endpoint: As of `NewJob`.
            owner: As of `NewJob`.
            key: As of `NewJob`.
            fingerprint: As of `NewJob`.

        Returns:
            The job, or the one that was accepted with the same key before; and whether it is new.

        Raises:
            IdempotencyConflict: The job with this key is another one.
            Exception: As for `submit`.
        """
        if not isinstance(task, BaseTask):
            raise InvalidArgument(f"a job is made of a task, {got(task)}")
        self._flow(flow)
        packed = pack(task)
        new = NewJob(secrets.token_hex(16), flow.name, endpoint, owner, packed.head, key, fingerprint)
        status, is_new = await self._whole(self._add(new, packed))
        return Job(self, status.id, status), is_new

    async def _whole(self, change: Coroutine[Any, Any, R]) -> R:
        """Change the store, and do what follows from it, even if the caller is cancelled meanwhile."""
        changing = asyncio.create_task(change)
        self._changing.add(changing)
        changing.add_done_callback(self._changing.discard)
        return await asyncio.shield(changing)

    async def _add(self, new: NewJob, packed: Packed) -> tuple[JobStatus, bool]:
        await self._spool.write(new.id, TASK, packed)
        try:
            record, outlook, is_new = await self._store.add(new, self.options.max_pending)
        except Exception:  # after a cancellation the job may be there
            await self._spool.remove([new.id])
            raise
        if is_new:
            self._wake(record)
        else:
            await self._spool.remove([new.id])
        return self._status(record, outlook), is_new

    async def check_place(self) -> None:
        """Refuse a job before its body is read.

        Raises:
            TooManyJobs: ``max_pending`` jobs are pending.
            UsageError: The queue does not run.
        """
        self._check_open()
        pending = await self._store.count_pending()
        if pending >= self.options.max_pending:
            raise TooManyJobs(f"{pending} jobs are pending (max_pending={self.options.max_pending})")

    def __getitem__(self, job: str) -> Job[Any]:
        """Return a job by its id. Nothing is read: `Job.refresh` says whether there is one."""
        if not isinstance(job, str):
            raise InvalidArgument(f"the id of a job is a text, {got(job)}")
        return Job(self, job)

    async def record(self, job: str, owner: str | None = None) -> Record:
        """Return a job as the store has it.

        Args:
            job: Its id.
            owner: Whose it must be; None: any.

        Raises:
            JobNotFound: There is none, or it belongs to another owner.
            UsageError: The queue does not run.
        """
        record, _ = await self._find(job, owner)
        return record

    async def status(self, job: str, owner: str | None = None) -> JobStatus:
        """Return what is known of a job.

        Raises:
            JobNotFound, UsageError: As for `record`.
        """
        return self._status(*await self._find(job, owner))

    def _status(self, record: Record, outlook: Outlook) -> JobStatus:
        flow = self._flows.get(record.flow)
        slots = 1 if flow is None else slots_of(flow, self.options)
        return status_of(record, outlook, self.options, slots, time.time())

    async def wait(self, job: str, timeout: float | None = None, owner: str | None = None) -> JobStatus:
        """Wait until a job has ended; return what is known of it, also when it has not ended in time.

        Args:
            job: Its id.
            timeout: Seconds to wait; None: no limit.
            owner: As for `record`.

        Raises:
            JobNotFound, UsageError: As for `record`.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        with self._changes.watch(job) as changed:
            while True:
                changed.clear()
                status = await self.status(job, owner)
                if status.is_finished or self._changes.has_ended:
                    return status
                try:
                    async with asyncio.timeout_at(deadline):
                        await changed.wait()
                except TimeoutError:
                    return status

    async def follow(self, job: str, after: int = 0, owner: str | None = None) -> AsyncIterator[JobStatus | JobItem]:
        """Yield what becomes of a job: its status now and after each change, and its items; until it has ended.

        Args:
            job: Its id.
            after: The number of the last item that is known.
            owner: As for `record`.

        Raises:
            JobNotFound, UsageError: As for `record`.
        """
        last: JobStatus | None = None
        with self._changes.watch(job, with_queue=True) as changed:
            while True:
                changed.clear()
                record, outlook = await self._find(job, owner)
                status = self._status(record, outlook)
                if status != last and not status.is_finished:
                    yield status  # before the items of another attempt
                    last = status
                while items := await self._store.items(record.number, after, PAGE):
                    for after, content in items:
                        yield JobItem(after, unpack_value(content))
                if status.is_finished:
                    yield status
                    return
                if self._changes.has_ended:
                    return
                await changed.wait()

    async def result(self, job: str, owner: str | None = None) -> BaseTask:
        """Return the finished task of a job. Its large fields are views on a file.

        Raises:
            JobNotFinished: It is in the queue or running.
            JobFailed: It has failed.
            JobCancelled: It was cancelled.
            JobNotFound, UsageError: As for `record`.
        """
        record = await self.record(job, owner)
        if record.finished_at is None:
            raise JobNotFinished(f"job {job} is {record.state}")
        if record.state == JobState.CANCELLED:
            raise JobCancelled(f"job {job} was cancelled")
        packed = await self._store.result(job) if record.state == JobState.COMPLETED else None
        if packed is None:
            raise JobFailed(f"job {job} has failed: {record.error}")
        try:
            return await self._spool.read(job, RESULT, packed)
        except Exception as exc:
            raise JobFailed(f"the result of job {job} cannot be read any more: {exc}") from exc

    async def cancel(self, job: str, owner: str | None = None) -> bool:
        """Take a job out of the queue, or cancel it while it runs; its handler can ask `BaseTask.is_cancelled`.

        Returns:
            Whether it was in the queue or running.

        Raises:
            JobNotFound, UsageError: As for `record`.
        """
        return await self._whole(self._cancel(await self.record(job, owner)))

    async def _cancel(self, record: Record) -> bool:
        if not await self._store.cancel(record.id):
            return False
        self._ownership.cancel(record.flow, record.id)
        await self._spool.remove([record.id])
        self._changes.note(record.id)
        self._changes.note_queue()
        return True

    async def discard(self, job: str, owner: str | None = None) -> None:
        """Cancel a job; or forget one that has ended, with its result.

        Raises:
            JobNotFound, UsageError: As for `record`.
        """
        await self._whole(self._discard(await self.record(job, owner)))

    async def _discard(self, record: Record) -> None:
        if not await self._cancel(record):
            await self._store.remove(record.id)
            await self._spool.remove([record.id])

    async def _find(self, job: str, owner: str | None) -> tuple[Record, Outlook]:
        self._check_open()
        found = await self._store.find(job)
        if found is None or (owner is not None and found[0].owner != owner):
            raise JobNotFound(f"there is no job {job}")
        return found

    def _flow(self, flow: Flow | None) -> Flow:
        self._check_open()
        if flow is None:
            if len(self._flows) > 1:
                raise ConfigurationError(
                    f"the application has several flows ({', '.join(self._flows)}); name one: jobs.submit(task, flow)"
                )
            return next(iter(self._flows.values()))
        if self._flows.get(flow.name) is not flow:
            raise ConfigurationError(f"flow {flow.name} does not run with these jobs: Aqueduct(flow, jobs=jobs)")
        return flow

    def _wake(self, record: Record) -> None:
        self._ownership.wake(record.flow)
        self._changes.note(record.id)

    def _check_open(self) -> None:
        if not self._is_open:
            raise UsageError(
                f"the jobs in {self.path} do not run: give them to the application, Aqueduct(flow, jobs=jobs), and "
                "call them while it runs"
            )
