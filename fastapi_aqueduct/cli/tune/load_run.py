"""A load: tasks that are sent to a flow for some time, and what became of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple, Protocol

from ...task import BaseTask
from .calls import CallFailed
from .goal import Load
from .machine import CoreUse, Usage
from .prediction import percentile

MOST_UNDER_WAY = 10_000
"""Largest number of tasks under way in a load with a rate: more come only if the flow does not bear the rate."""

Take = Callable[[int], Sequence[BaseTask]]
"""Returns new tasks."""


class Outcome(NamedTuple):
    """What a flow did under a load.

    Attributes:
        rate: Answers per second.
        mean: The mean of the seconds of a task.
        times: The seconds of each task, in ascending order.
        cpu: Seconds of processor time of the workers for a task.
        dispatch: Seconds of processor time of this process for a task, without those in which the task was made.
        speed: How fast the cores were for the flow meanwhile: 1 unless other processes used them, too.
        foreign_cores: Cores that other processes used meanwhile.
        memory: Bytes of private memory of the workers, all together.
        taking: Share of the time in which this process made tasks and could send none.
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
    taking: float
    failed: int = 0
    error: str = ""

    def percentile(self, percent: float) -> float:
        """Return the time within which this share of the tasks was answered, in seconds."""
        return percentile(self.times, percent)


class Loaded(Protocol):
    """A flow that runs."""

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""

    def memory(self) -> int:
        """Return the private memory of the workers, all together."""

    async def process(self, task: BaseTask) -> int:
        """Process a task, and return the number of its items."""


class LoadRun:
    """One load.

    Args:
        flow: What is loaded.
        take: Returns new tasks.
        load: The load.
    """

    def __init__(self, flow: Loaded, take: Take, load: Load) -> None:
        self._flow = flow
        self._take = take
        self._load = load
        self._answers: list[tuple[float, float]] = []  # when, and the seconds of the task
        self._under_way = 0
        self._taking = 0.0  # seconds in which this process made tasks
        self._taking_cpu = 0.0  # seconds of processor time of that
        self._failed = 0
        self._error = ""

    async def measure(self, seconds: float, longest: float, least: int) -> Outcome:
        """Send tasks for some time, and return what became of them.

        Args:
            seconds: Duration in seconds.
            longest: Longest duration in seconds, while there are fewer than ``least`` answers.
            least: Number of answers that is enough.

        Raises:
            CallFailed: There is no answer.
            SampleFailed: A task could not be made.
        """
        usage = Usage(self._flow.pids)
        sending = asyncio.ensure_future(self._send())
        try:
            await asyncio.wait([sending], timeout=seconds)
            while not sending.done() and len(self._answers) < least and usage.seconds < longest:
                await asyncio.wait([sending], timeout=seconds / 10)
            use = usage.read()
            memory = self._flow.memory()
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        if not sending.cancelled() and isinstance(errors := sending.exception(), ExceptionGroup):
            raise errors.exceptions[0]  # no task could be made
        return self._outcome(use, memory)

    def _outcome(self, use: CoreUse, memory: int) -> Outcome:
        if not self._answers:
            raise CallFailed(self._error or "no task was answered in time")
        # What is under way at the beginning has not waited as long as what comes later.
        skipped = min(max(self._load.callers, len(self._answers) // 5), len(self._answers) // 2)
        times = sorted(seconds for _, seconds in self._answers[skipped:])
        mean = fmean(times)
        rate = self._rate(skipped, mean)
        count = rate * use.seconds
        return Outcome(
            rate=rate,
            mean=mean,
            times=times,
            cpu=use.workers / count,
            dispatch=max(0.0, use.own - self._taking_cpu) / count,
            speed=use.speed,
            foreign_cores=use.foreign,
            memory=memory,
            taking=self._taking / use.seconds,
            failed=self._failed,
            error=self._error,
        )

    def _rate(self, skipped: int, mean: float) -> float:
        """Return the answers per second.

        Those of a batch, or of calls that have begun side by side, come together. A count of the answers in some time
        would be wrong by such a burst, so of callers that go on at once the rate follows from the time of a task
        (Little's law).
        """
        if self._load.callers and not self._failed:
            return self._load.callers / max(mean, 1e-9)
        ended, seconds = self._answers[skipped - 1] if skipped else self._answers[0]
        begun = ended if skipped else ended - seconds
        return (len(self._answers) - skipped) / max(self._answers[-1][0] - begun, 1e-9)

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
                if self._under_way < MOST_UNDER_WAY:
                    self._under_way += 1
                    group.create_task(self._process(due))

    async def _call_again(self) -> None:
        while True:
            self._under_way += 1
            await self._process(None)

    async def _process(self, due: float | None) -> None:
        """Process a task.

        Args:
            due: When it came; None: now.
        """
        task = self._new_task()
        begun = time.monotonic() if due is None else due
        try:
            await self._flow.process(task)
        except Exception as exc:
            self._failed += 1
            self._error = f"{type(exc).__name__}: {exc}"
            await asyncio.sleep(0)  # a flow that refuses at once must not keep the event loop
        else:
            now = time.monotonic()
            self._answers.append((now, now - begun))
        finally:
            self._under_way -= 1

    def _new_task(self) -> BaseTask:
        begun, begun_cpu = time.monotonic(), time.thread_time()
        (task,) = self._take(1)
        self._taking += time.monotonic() - begun
        self._taking_cpu += time.thread_time() - begun_cpu
        return task
