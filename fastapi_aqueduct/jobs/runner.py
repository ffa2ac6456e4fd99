"""Runs the jobs of a flow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from ..engine.wire.packing import pack
from ..exceptions import (
    AqueductError,
    FlowError,
    NotRunningError,
    Overloaded,
    StoreError,
    TaskTimeout,
    TaskTooLarge,
    WorkerDied,
)
from ..flow import Flow
from ..logger import log
from ..task import BaseTask
from .changes import Changes
from .journal import Journal
from .options import JobOptions
from .records import Record
from .spool import RESULT, TASK, Spool
from .status import JobState
from .store import DIED, MAX_DELAY, Store

LOWEST_PRIORITY = 0
"""The priority of jobs: tasks of requests with a higher one overtake them in each queue."""

RETRY_DELAY = 1.0
"""Seconds before another try, where the flow does not say; twice as many each time for a disk that is full."""

STORE_TIME = 5.0
"""Seconds at a stop in which the results of jobs that have just ended are stored."""

MAX_ERROR = 10_000
"""The most characters of an error that are kept."""


class Runner:
    """Begins the jobs of a flow in their order, a number of them at a time.

    Args:
        flow: The flow.
        store: The store.
        spool: The files.
        options: The options of the queue.
        changes: Gets the jobs that change.
    """

    def __init__(self, flow: Flow, store: Store, spool: Spool, options: JobOptions, changes: Changes) -> None:
        self._flow = flow
        self._store = store
        self._spool = spool
        self._options = options
        self._changes = changes
        self._running: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[str] = set()
        self._wake = asyncio.Event()
        self._is_paused = False
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run jobs."""
        self._serving = asyncio.create_task(self._serve())

    def wake(self) -> None:
        """Look for jobs: there is a new one."""
        self._wake.set()

    def pause(self) -> None:
        """Begin no more jobs."""
        self._is_paused = True
        self._wake.set()

    def cancel(self, job: str) -> None:
        """Cancel a job that runs here. Its handler can ask `BaseTask.is_cancelled`."""
        if (running := self._running.get(job)) is not None:
            running.cancel()

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that run here."""
        return tuple(self._running)

    async def stop(self) -> None:
        """End, with the jobs that still run. The results of those that have just ended are stored first."""
        self.pause()
        if self._serving is not None:
            await asyncio.wait([self._serving])  # not cancelled: it may be about to begin a job
        await _end([task for job, task in self._running.items() if job not in self._leaving])
        if self._running:
            await asyncio.wait(self._running.values(), timeout=STORE_TIME)
            await _end(list(self._running.values()))

    async def _serve(self) -> None:
        while not self._is_paused:
            self._wake.clear()
            try:
                # Else each try while there is no worker, or no pipeline process, would count as an attempt.
                self._flow.check_entry(LOWEST_PRIORITY, self._options.job_timeout)
                delay = await self._begin_all()
            except FlowError as exc:
                delay = exc.retry_after if isinstance(exc, Overloaded) else RETRY_DELAY
            except StoreError as exc:
                log.error("flow %s: its jobs cannot be begun: %s", self._flow.name, describe(exc))
                delay = MAX_DELAY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    async def _begin_all(self) -> float | None:
        """Begin as many jobs as there is place for; return in how many seconds the next one may begin."""
        slots = slots_of(self._flow, self._options)
        while len(self._running) < slots and not self._is_paused:
            claimed = await self._store.claim(self._flow.name)
            if claimed is None:
                at = await self._store.next_start(self._flow.name)
                return None if at is None else max(0.0, at - time.time())
            record, content = claimed
            if self._is_paused:  # meanwhile; a job that may run once only must not fail for this
                await self._store.put_back(record, 0.0, counts=False)
                return None
            running = asyncio.create_task(self._run(record, content))
            self._running[record.id] = running
            running.add_done_callback(lambda ended, job=record.id: self._forget(job, ended))  # type: ignore[misc]
            self._changes.note(record.id)
            self._changes.note_queue()
        return None

    def _forget(self, job: str, ended: asyncio.Task[None]) -> None:
        del self._running[job]
        self._leaving.discard(job)
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log.error("job %s: it stays as it is until the next start", job, exc_info=error)
        self._wake.set()

    async def _run(self, record: Record, content: bytes) -> None:
        try:
            task = await self._spool.read(record.id, TASK, content)
        except Exception as exc:
            await self._fail(record, f"it cannot be read any more: {describe(exc)}")
            return
        task.set_priority(LOWEST_PRIORITY)
        try:
            await self._process(record, task)
        except NotRunningError as exc:
            # At the stop of the flow all jobs that still run are put back together.
            if not self._is_paused:
                await self._retry(record, exc, RETRY_DELAY)
        except Overloaded as exc:
            if isinstance(exc, TaskTooLarge):
                await self._fail(record, describe(exc))
            else:
                await self._put_back(record, max(exc.retry_after, RETRY_DELAY), counts=False)
        except WorkerDied as exc:
            await self._retry(record, exc, RETRY_DELAY)
        except Exception as exc:
            await self._fail(record, describe(exc))
        else:
            await self._complete(record, task)

    async def _process(self, record: Record, task: BaseTask) -> None:
        journal = Journal(self._store, record, self._changes)
        timeout = self._options.job_timeout
        limit = asyncio.timeout(timeout)
        try:
            async with limit, aclosing(self._flow.stream(task, timeout, timeout)) as stream:
                async for item in stream:
                    await journal.put(item)
                self._leaving.add(record.id)
        except TimeoutError:
            if limit.expired():
                raise TaskTimeout(f"it did not end within its job_timeout of {timeout:g} s") from None
            raise
        finally:
            await journal.end()

    async def _complete(self, record: Record, task: BaseTask) -> None:
        try:
            packed = pack(task)
        except AqueductError as exc:
            await self._fail(record, describe(exc))
            return

        async def write() -> None:
            await self._spool.write(record.id, RESULT, packed)
            await self._end(record, JobState.COMPLETED, packed.head, None)

        await self._persist(record, write)

    async def _persist(self, record: Record, write: Callable[[], Awaitable[object]]) -> None:
        """Write until there is place for it: what has become of a job is not lost while the process runs."""
        delay = RETRY_DELAY
        while True:
            try:
                await write()
                return
            except StoreError as exc:
                log.error("job %s: its end cannot be stored, next try in %g s: %s", record.id, delay, describe(exc))
                await asyncio.sleep(delay)
                delay = min(2 * delay, MAX_DELAY)

    async def _fail(self, record: Record, error: str) -> None:
        # A text of an exception may have surrogates, which neither SQLite nor JSON can write.
        error = error[:MAX_ERROR].encode(errors="backslashreplace").decode()
        log.warning("job %s of flow %s has failed: %s", record.id, self._flow.name, error)
        await self._persist(record, lambda: self._end(record, JobState.FAILED, None, error))

    async def _end(self, record: Record, state: JobState, result: bytes | None, error: str | None) -> None:
        is_ours = await self._store.finish(record, state, result, error)
        await self._spool.remove([record.id], *([TASK] if is_ours else ()))
        self._changes.note(record.id)

    async def _retry(self, record: Record, exc: Exception, delay: float) -> None:
        if record.attempts > self._options.max_retries:
            await self._fail(record, f"{DIED}: {describe(exc)}" if self._options.max_retries else describe(exc))
            return
        log.warning("job %s of flow %s runs again: %s", record.id, self._flow.name, describe(exc))
        await self._put_back(record, delay, counts=True)

    async def _put_back(self, record: Record, delay: float, counts: bool) -> None:
        await self._persist(record, lambda: self._store.put_back(record, delay, counts))
        self._changes.note(record.id)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def slots_of(flow: Flow, options: JobOptions) -> int:
    """Return how many jobs may be in a flow at the same time."""
    return options.max_running or max(1, *(step.nprocs for step in flow.steps.values()))


def describe(exc: BaseException) -> str:
    """Describe an error: its class and its text. The error itself would keep the frames, and their task."""
    text = str(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
