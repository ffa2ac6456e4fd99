"""Measures a running flow: single calls of its only step, or the whole flow under a load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ...exceptions import TaskTimeout
from ...flow import Flow
from ...reports import StepRecord, TaskRecord
from ...task import BaseTask
from ..memory import own_part
from ..sample import may_stream
from .calls import Call, CallFailed, are_steady, point_of, spread_of
from .costs import Point
from .goal import Load
from .load_run import LoadRun, Outcome, Take
from .machine import WorkerClock

PATIENCE = 3600.0
"""Time limit of a task in a load, in seconds. A load ends by itself."""


class Bench:
    """A running flow, and what is observed of it.

    Args:
        flow: The running flow.
        streams: Whether its tasks are called for their items.

    Attributes:
        streams: As given.
    """

    def __init__(self, flow: Flow, streams: bool = False) -> None:
        self._flow = flow
        self.streams = streams
        self._is_stuck = False  # whether a call of a handler may go on

    @classmethod
    @asynccontextmanager
    async def running(cls, flow: Flow, streams: bool = False) -> AsyncIterator[Bench]:
        """Have a flow run during the context. Workers that are in a call at its end are killed."""
        bench = cls(flow, streams)
        await flow.start_async()
        graceful = False
        try:
            yield bench
            graceful = not bench._is_stuck
        finally:
            await _stop(flow, graceful)

    async def process(self, task: BaseTask, patience: float = PATIENCE) -> int:
        """Process a task.

        Args:
            task: The task.
            patience: Time limit in seconds, of the task and of each of its items.

        Returns:
            The number of its items; 0 if it is not called for them.

        Raises:
            TaskTimeout: The task exceeds it. Its worker is killed at the end.
            Exception: As for `Flow.process`.
        """
        try:
            if not self.streams or not may_stream(task):
                await self._flow.process(task, patience)
                return 0
            count = 0
            async with self._flow.stream(task, patience) as items:
                async for _ in items:
                    count += 1
            return count
        except TaskTimeout:
            self._is_stuck = True
            raise

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for step in self._flow.statistics().steps for worker in step.workers if worker.pid]

    def memory(self) -> int:
        """Return the private memory of the workers, all together."""
        return sum(own_part(pid) or 0 for pid in self.pids)

    async def measure_calls(self, take: Take, size: int, threads: int, seconds: float, patience: float) -> Point:
        """Measure calls with full batches, one after the other, in the only worker of the only step.

        Args:
            take: Returns new tasks.
            size: Tasks of each call.
            threads: Threads of the worker.
            seconds: After this many seconds no further call begins, unless there has been none.
            patience: Time limit of a call, in seconds.

        Raises:
            CallFailed: The handler has failed.
        """
        end = time.monotonic() + seconds
        # It allocates memory, so it counts only where there is no time for another.
        first = await self._call(take, size, patience)
        calls: list[Call] = []
        while time.monotonic() + (calls or [first])[-1].handle_time < end and not are_steady(calls, threads):
            calls.append(await self._call(take, size, patience))
        return point_of(calls or [first], size, threads, self.memory())

    async def measure_beside(self, take: Take, size: int, seconds: float, longest: float = 0.0) -> Point:
        """Measure calls side by side in the only worker of the only step.

        Args:
            take: Returns new tasks.
            size: Number of calls under way at once.
            seconds: Duration of the measurement in seconds.
            longest: Longest duration in seconds, while fewer than twice ``size`` calls have ended.

        Raises:
            CallFailed: The handler has failed, or none has ended in this time.
        """
        pid = self._only_worker()
        clock, begun = WorkerClock.read(pid), time.monotonic()
        outcome = await self.load(take, Load(callers=size), seconds, longest, 2 * size)
        now = WorkerClock.read(pid)
        cpu, waited = now.cpu_since(clock), max(now.waits_since(clock), default=0.0)
        if outcome.failed:
            raise CallFailed(outcome.error)
        waited_share = min(0.9, waited / (time.monotonic() - begun))
        each = outcome.mean / size if cpu is None else outcome.cpu
        seconds = max(outcome.mean * (1 - waited_share), each * size)
        return Point(size, seconds, each * size, spread_of(outcome.times), len(outcome.times), self.memory())

    async def load(self, take: Take, load: Load, seconds: float, longest: float = 0.0, least: int = 0) -> Outcome:
        """Measure what the flow does under a load.

        Args:
            take: Returns new tasks.
            load: The load.
            seconds: Duration in seconds.
            longest: Longest duration in seconds, while there are fewer than ``least`` answers.
            least: Number of answers that is enough.

        Raises:
            CallFailed: There is no answer.
        """
        return await LoadRun(self, take, load).measure(seconds, longest, least)

    async def _call(self, take: Take, size: int, patience: float) -> Call:
        pid = self._only_worker()
        records: list[StepRecord] = []

        def note(record: TaskRecord) -> None:
            if record.outcome == "completed" and record.steps:
                records.append(record.steps[-1])

        tasks = take(size)
        before = WorkerClock.read(pid)
        self._flow.subscribers.append(note)
        try:
            ended = await asyncio.gather(*(self.process(task, patience) for task in tasks), return_exceptions=True)
        finally:
            self._flow.subscribers.remove(note)
        for error in ended:
            if isinstance(error, Exception):
                raise CallFailed(f"{type(error).__name__}: {error}") from error
        now = WorkerClock.read(pid)
        cpu, waited = now.cpu_since(before), max(now.waits_since(before), default=0.0)
        sizes = {record.batch_size for record in records}
        if sizes != {len(tasks)}:
            raise CallFailed(f"{len(tasks)} tasks at once came to calls of {sorted(sizes)}")
        around = records[0].answered_at - records[0].sent_at - records[0].handle_time
        return Call(records[0].handle_time, max(0.0, around), cpu, waited)

    def _only_worker(self) -> int:
        pids = self.pids
        if not pids:
            raise CallFailed("its worker has died")
        return pids[0]


async def _stop(flow: Flow, graceful: bool) -> None:
    """Stop a flow. A cancellation kills its workers, and does not return before they are gone."""
    stopping = asyncio.ensure_future(flow.stop(graceful))
    try:
        await asyncio.shield(stopping)
    except asyncio.CancelledError:
        await flow.stop(graceful=False)
        await asyncio.wait([stopping])
        raise
