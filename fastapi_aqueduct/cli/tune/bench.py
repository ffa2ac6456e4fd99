"""Measures a flow that runs: single calls of its only step, or what all of it does under a load."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import sqrt
from statistics import fmean, median, quantiles
from typing import NamedTuple

from ...engine.system.process_memory import private_memory
from ...flow import Flow
from ...reports import StepRecord, TaskRecord
from ...task import BaseTask
from .costs import Point
from .goal import Load
from .machine import CoreUse, Usage, WorkerClock
from .simulation import percentile

PATIENCE = 3600.0
"""Seconds that a task may take."""

LEAST_CALLS = 4
"""Calls that are measured at least, if there is time."""

STEADY = 0.03
"""The error of the median, as a part of it, at which no further call is needed."""

DISTURBED = 0.1
"""The part of a call for which its worker waited for a core, from which on other calls are preferred."""

NOISY = 0.25
"""The spread from which measurements are said to vary."""

Take = Callable[[int], Sequence[BaseTask]]
"""Returns new tasks."""


class CallFailed(Exception):
    """A call of a handler has failed: with this many tasks it cannot be measured."""


class Outcome(NamedTuple):
    """What a flow did under a load.

    Attributes:
        rate: Answers per second.
        mean: The mean of the seconds of a task.
        times: The seconds of each task, in ascending order.
        cpu: Seconds of processor time of the workers for a task.
        dispatch: Seconds of processor time of this process for a task.
        speed: How fast the cores were for the flow meanwhile: 1 unless other processes used them, too.
        foreign_cores: Cores that other processes used meanwhile.
        memory: Bytes of private memory of the workers, all together.
        failed: Tasks that have failed.
        error: Why the last of them has failed.
    """

    rate: float
    mean: float
    times: Sequence[float]
    cpu: float
    dispatch: float
    speed: float
    foreign_cores: float
    memory: int
    failed: int = 0
    error: str = ""

    def percentile(self, percent: float) -> float:
        """Return the seconds that this part of the tasks did not exceed."""
        return percentile(self.times, percent)


class Call(NamedTuple):
    """One call of a handler, as it was observed.

    Attributes:
        handle_time: Seconds of the handler.
        around: Seconds before and after it, until the answer was there: the worker decodes and encodes, and sleeps.
        cpu: Processor time of the worker; None if it is not known.
        waited: Seconds for which the worker waited for a core, in the handler or around it.
    """

    handle_time: float
    around: float
    cpu: float | None
    waited: float = 0.0

    @property
    def is_undisturbed(self) -> bool:
        """Whether the worker had a core nearly whenever it wanted one."""
        return self.waited <= DISTURBED * self.handle_time

    def seconds(self, threads: int) -> float:
        """Return what the call would have taken on an idle machine.

        Args:
            threads: Threads of the worker.
        """
        quick = self.handle_time - self.waited
        if self.cpu is None:
            return max(0.0, quick)
        least = self.cpu / threads
        # A handler that computes has used the time in which it did not wait. Another one hardly needs a core, so the
        # wait was around it.
        computes = least / 2 <= quick <= 1.5 * self.cpu
        handled = quick if computes or self.is_undisturbed else self.handle_time - max(0.0, self.waited - self.around)
        return max(handled + min(max(0.0, self.cpu - handled), self.around), least)


class Bench:
    """A flow that runs, and what is observed of it.

    Args:
        flow: The flow, which runs.
        streams: Whether its tasks are called for their items.

    Attributes:
        streams: As given.
    """

    def __init__(self, flow: Flow, streams: bool = False) -> None:
        self._flow = flow
        self.streams = streams
        self._records: list[StepRecord] = []

    @classmethod
    @asynccontextmanager
    async def running(cls, flow: Flow, streams: bool = False) -> AsyncIterator[Bench]:
        """Have a flow run during the context. After an error or a cancellation its workers are killed."""
        bench = cls(flow, streams)
        await flow.start_async()
        flow.subscribers.append(bench._note)
        graceful = False
        try:
            yield bench
            graceful = True
        finally:
            flow.subscribers.remove(bench._note)
            await flow.stop(graceful)

    async def process(self, task: BaseTask) -> int:
        """Process a task.

        Returns:
            The number of its items; 0 if it is not called for them.
        """
        if not self.streams:
            await self._flow.process(task, PATIENCE)
            return 0
        count = 0
        async with self._flow.stream(task, PATIENCE) as items:
            async for _ in items:
                count += 1
        return count

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for step in self._flow.statistics().steps for worker in step.workers if worker.pid]

    def memory(self) -> int:
        """Return the private memory of the workers, all together."""
        return sum(private_memory(pid) or 0 for pid in self.pids)

    async def measure_calls(self, take: Take, size: int, threads: int, seconds: float) -> Point:
        """Measure calls of the handler with full batches, one after the other, of the only worker of the only step.

        Args:
            take: Returns new tasks.
            size: Tasks of each call.
            threads: Threads of the worker.
            seconds: Seconds after which no further call begins, if there is one.

        Raises:
            CallFailed: The handler has failed.
        """
        end = time.monotonic() + seconds
        # It allocates memory, so it counts only where there is no time for another.
        first = await self._call(take(size))
        calls: list[Call] = []
        while time.monotonic() + (calls or [first])[-1].handle_time < end and not _is_steady(calls, threads):
            calls.append(await self._call(take(size)))
        calls = calls or [first]
        undisturbed = [call for call in calls if call.is_undisturbed]
        counted = undisturbed if len(undisturbed) > 1 else calls
        times = [call.seconds(threads) for call in counted]
        cpu = median(call.seconds(threads) if call.cpu is None else call.cpu for call in counted)
        return Point(size, median(times), cpu, _spread(times), len(calls), self.memory())

    async def measure_beside(self, take: Take, size: int, seconds: float, longest: float = 0.0) -> Point:
        """Measure calls side by side, of the only worker of the only step.

        Args:
            take: Returns new tasks.
            size: How many are under way at once.
            seconds: Seconds for which they are.
            longest: Seconds for which they are if fewer than twice as many have ended.

        Raises:
            CallFailed: The handler has failed, or none has ended in this time.
        """
        (pid,) = self.pids
        clock, begun = WorkerClock.read(pid), time.monotonic()
        outcome = await self.load(take, Load(callers=size), seconds, longest, 2 * size)
        now = WorkerClock.read(pid)
        cpu, waited = now.cpu_since(clock), max(now.waits_since(clock), default=0.0)
        if outcome.failed:
            raise CallFailed(outcome.error)
        waited_share = min(0.9, waited / (time.monotonic() - begun))
        residence = size / outcome.rate
        spread = _spread(outcome.times)
        each = residence / size if cpu is None else outcome.cpu
        seconds = max(residence * (1 - waited_share), each * size)
        return Point(size, seconds, each * size, spread, len(outcome.times), self.memory())

    async def load(self, take: Take, load: Load, seconds: float, longest: float = 0.0, least: int = 0) -> Outcome:
        """Measure what the flow does under a load.

        Args:
            take: Returns new tasks.
            load: The load.
            seconds: Seconds for which it lasts.
            longest: Seconds for which it lasts if there are too few answers.
            least: How many are enough.

        Raises:
            CallFailed: There is no answer.
        """
        run = _LoadRun(self, take, load)
        return await run.measure(seconds, longest, least)

    async def _call(self, tasks: Sequence[BaseTask]) -> Call:
        (pid,) = self.pids
        self._records.clear()
        before = WorkerClock.read(pid)
        ended = await asyncio.gather(*map(self.process, tasks), return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise CallFailed(f"{type(error).__name__}: {error}") from error
        now = WorkerClock.read(pid)
        cpu, waited = now.cpu_since(before), max(now.waits_since(before), default=0.0)
        sizes = {record.batch_size for record in self._records}
        if sizes != {len(tasks)}:
            raise CallFailed(f"{len(tasks)} tasks at once came to calls of {sorted(sizes)}")
        record = self._records[0]
        around = record.answered_at - record.sent_at - record.handle_time
        return Call(record.handle_time, max(0.0, around), cpu, waited)

    def _note(self, record: TaskRecord) -> None:
        if record.outcome == "completed" and record.steps:
            self._records.append(record.steps[-1])


class _LoadRun:
    """One load."""

    def __init__(self, bench: Bench, take: Take, load: Load) -> None:
        self._bench = bench
        self._take = take
        self._load = load
        self._answers: list[tuple[float, float]] = []  # when, and the seconds of the task
        self._failed = 0
        self._error = ""

    async def measure(self, seconds: float, longest: float, least: int) -> Outcome:
        """Send tasks for some time, and return what became of them; the arguments are those of `Bench.load`."""
        usage = Usage(self._bench.pids)
        sending = asyncio.ensure_future(self._send())
        try:
            await asyncio.wait([sending], timeout=seconds)
            while not sending.done() and len(self._answers) < least and usage.seconds < longest:
                await asyncio.wait([sending], timeout=seconds / 10)
            use = usage.read()
            memory = self._bench.memory()
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        if not sending.cancelled():
            sending.result()  # it has no end but an error
        return self._outcome(use, memory)

    def _outcome(self, use: CoreUse, memory: int) -> Outcome:
        if not self._answers:
            raise CallFailed(self._error or "no task was answered in time")
        # From an answer to an answer: what is under way at the ends would count as half.
        skipped = min(max(self._load.callers, len(self._answers) // 5), len(self._answers) // 2)
        counted = self._answers[skipped:]
        begun = self._answers[skipped - 1][0] if skipped else self._answers[0][0] - self._answers[0][1]
        rate = len(counted) / max(counted[-1][0] - begun, 1e-9)
        times = sorted(seconds for _, seconds in counted)
        count = len(self._answers)
        return Outcome(
            *(rate, fmean(times), times, use.workers / count, use.own / count, use.speed, use.foreign),
            *(memory, self._failed, self._error),
        )

    async def _send(self) -> None:
        async with asyncio.TaskGroup() as group:
            if self._load.callers:
                for _ in range(self._load.callers):
                    group.create_task(self._call_again())
                return
            moments, due = random.Random(0), time.monotonic()
            while True:
                due += moments.expovariate(self._load.rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._process(due))

    async def _call_again(self) -> None:
        while True:
            await self._process(time.monotonic())

    async def _process(self, begun: float) -> None:
        (task,) = self._take(1)
        try:
            await self._bench.process(task)
        except Exception as exc:
            self._failed += 1
            self._error = f"{type(exc).__name__}: {exc}"
            await asyncio.sleep(0)  # a flow that refuses at once must not keep the event loop
        else:
            now = time.monotonic()
            self._answers.append((now, now - begun))


def _is_steady(calls: Sequence[Call], threads: int) -> bool:
    times = [call.seconds(threads) for call in calls]
    return len(calls) >= LEAST_CALLS and _spread(times) / sqrt(len(times)) < STEADY


def _spread(times: Sequence[float]) -> float:
    """Return the interquartile range as a part of the median."""
    if len(times) < 4:
        return (max(times) - min(times)) / (median(times) or 1.0)
    low, middle, high = quantiles(times, n=4)
    return (high - low) / (middle or 1.0)
