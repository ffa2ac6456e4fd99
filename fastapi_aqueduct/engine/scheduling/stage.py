"""One step as the dispatcher sees it: who waits for it and who works on it."""

from __future__ import annotations

import asyncio
import heapq
import math
import time

from ...step import FlowStep
from ..statistics import StepStatistics, WorkerState
from ..timing import DEFAULT_TIMING, Timing
from ..workers.handle import WorkerHandle
from ..workers.process import available_cores
from ..workers.restart import Life, RestartBudget
from .batch_delay import BatchDelay
from .queue import BatchQueue
from .ticket import Ticket
from .waiters import Waiters


class Rota:
    """The workers of a step that take more, who has least in hand first, as long as they are only given work.

    Made once for many batches: to look through 64 workers for each of them would be the dearest part of a task.

    Args:
        workers: The workers, of any state.

    Attributes:
        size: How many these are.
    """

    def __init__(self, workers: list[WorkerHandle]) -> None:
        self.size = len(workers)
        self._heap = [(worker.calls, number, worker) for number, worker in enumerate(workers) if worker.room() > 0]
        heapq.heapify(self._heap)

    def first(self) -> WorkerHandle | None:
        """Return the worker that has least in hand; None when all have enough."""
        while self._heap:
            calls, number, worker = self._heap[0]
            if worker.calls == calls:
                return worker
            if worker.room() > 0:
                heapq.heapreplace(self._heap, (worker.calls, number, worker))
            else:
                heapq.heappop(self._heap)
        return None


class Stage:
    """Everything about one step that the dispatcher and the feeder decide by.

    Args:
        name: Name of the step.
        step: Its settings.
        queue_size: Tasks that may wait for it, in each level.
        priorities: Number of levels.
        timing: When the step counts as broken, hanging, or given up.

    Attributes:
        name: Name of the step.
        nprocs: How many workers it should have.
        queue: The tasks that wait for it.
        batch_delay: Decides how long a batch waits; None when a fixed time does.
        workers: Its workers, of any state.
        waiters: Where callers wait for a place in the queue.
        takes_at_once: Whether nothing can be gained by waiting, however shortly, for others than the first who comes.
        timer: Wakes the feeder when a batch that is not full is due.
        max_retries: How often a task is tried again after a worker has died with it.
        budget: Whether workers die too often.
        expected_ready_at: When a worker should be ready again, on the clock of ``time.monotonic``.
        load_time: Seconds the last worker took to become ready.
        quickest_load: Seconds that the worker took that loaded most quickly; a busy machine makes the others slow.
        restarts: Workers that died and were replaced.
        failed_launches: Launches that failed before there was a worker.
        recycled: Workers that were replaced because they were worn.
        retries: Tasks that were tried again.
    """

    def __init__(
        self, name: str, step: FlowStep, queue_size: int, priorities: int, timing: Timing = DEFAULT_TIMING
    ) -> None:
        self.name = name
        self.nprocs = step.nprocs
        self._cores = available_cores()
        is_patient = step.batch_timeout == "auto"
        timeout = 0.0 if step.batch_timeout == "auto" else step.batch_timeout
        self.queue: BatchQueue[Ticket] = BatchQueue(step.batch_size, timeout, priorities)
        self.batch_delay = BatchDelay(step.batch_size) if is_patient and step.batch_size > 1 else None
        self.workers: list[WorkerHandle] = []
        self.waiters = Waiters(self.queue, queue_size)
        self.takes_at_once = step.batch_size == 1 and timeout == 0 and priorities == 1
        self.timer: asyncio.TimerHandle | None = None
        self.max_retries = step.max_retries
        self.budget = RestartBudget(time.monotonic(), step.nprocs, timing)
        self.expected_ready_at = 0.0
        self.load_time = 1.0
        self.quickest_load = math.inf
        self.restarts = 0
        self.failed_launches = 0
        self.recycled = 0
        self.retries = 0
        self._timing = timing
        self._longest_call = 0.0

    def ready_workers(self) -> list[WorkerHandle]:
        """List the workers that take tasks."""
        return [worker for worker in self.workers if worker.state is WorkerState.READY]

    def expected_wait(self, now: float) -> float:
        """Tell in how many seconds a worker should be ready; 0 when one is."""
        return 0.0 if self.ready_workers() else max(0.1, self.expected_ready_at - now)

    def expect_worker(self, at: float, now: float) -> None:
        """Note when a worker should be ready; what comes sooner counts.

        Args:
            at: When it should be, on the clock of ``time.monotonic``.
            now: The time on that clock.
        """
        if self.expected_ready_at <= now or at < self.expected_ready_at:
            self.expected_ready_at = at

    def note_load(self, seconds: float) -> None:
        """Note how long a worker took to become ready."""
        self.load_time = seconds
        self.quickest_load = min(self.quickest_load, seconds)
        self.budget.note_load(seconds)

    def note_death(self, life: Life, now: float) -> None:
        """Count the death of a worker that was ready, if its load is dear; those with one task in hand count once."""
        if life.load >= self._timing.quick_load and not life.is_repeated:
            self.budget.note_death(now)

    def part_with(self, worker: WorkerHandle) -> None:
        """Forget a worker that is gone."""
        self.workers.remove(worker)
        self._longest_call = max(self._longest_call, worker.longest)

    def hanging_for(self, now: float) -> float:
        """Tell for how long all workers have been in calls whose tasks have all ended without them.

        Args:
            now: The time on the clock of ``time.monotonic``.

        Returns:
            Seconds; 0 while a worker works, is idle or loads.
        """
        workers = list(self.workers)
        ready = [worker for worker in workers if worker.state is WorkerState.READY]
        if not ready or any(worker.state is WorkerState.STARTING for worker in workers):
            return 0.0
        return max(0.0, now - max(worker.hanging_since() for worker in ready))

    def hang_limit(self) -> float:
        """Tell how many seconds a call may take before the step counts as hanging."""
        longest = max((worker.longest for worker in list(self.workers)), default=0.0)
        return max(self._timing.hang_after, 3 * max(self._longest_call, longest))

    def expected_time(self) -> float:
        """Tell how long a task that comes now should take here at the measured rate, in seconds."""
        waiting = -(-(self.queue.count + 1) // self.queue.batch_size)
        if len(self.workers) == 1:
            worker = self.workers[0]
            return worker.pace * (waiting + worker.calls) if worker.state is WorkerState.READY else 0.0
        ready = self.ready_workers()
        if not ready:
            return 0.0
        pace = sum(worker.pace for worker in ready) / len(ready)
        batches = waiting + sum(worker.calls for worker in ready)
        return pace * max(1.0, batches / len(ready))

    def on_duty(self, now: float) -> list[WorkerHandle]:
        """List the workers that should share the work: all of them, or as many as there are cores if it is brief.

        More could not do it at the same time. They would get it in smaller portions, and each that wakes up takes the
        core and the caches from another: 64 workers on two cores do half as much as two of them.
        """
        if self.nprocs <= self._cores:
            return self.workers
        quick = 0
        for number, worker in enumerate(self.workers, start=1):
            quick += worker.is_quick(now)
            if quick == self._cores:
                return self.workers[:number]
        return self.workers

    def idle_worker(self, now: float) -> WorkerHandle | None:
        """Find a worker that has nothing to do."""
        for worker in self.on_duty(now):
            if not worker.calls and worker.state is WorkerState.READY:
                return worker
        return None

    def free_worker(self, rota: Rota, may_wait: bool) -> tuple[WorkerHandle | None, int]:
        """Choose the worker that should get the next batches.

        Args:
            rota: Of its workers.
            may_wait: Whether a batch may wait in a worker's hands until that has done others.

        Returns:
            The worker, None when all have enough; and for how many calls of its handler it should get tasks.
        """
        worker = rota.first()
        if worker is None or (worker.calls and not may_wait):
            return None, 0
        if not may_wait:
            return worker, 1
        # With several workers the tasks that are here are dealt out, not poured into the first.
        share = -(-self.queue.count // (self.queue.batch_size * rota.size))
        return worker, min(worker.room(), worker.calls_per_batch(), share)

    def share(self) -> float:
        """Tell which part of a call's fixed time a task saves that joins a batch in time.

        Whoever comes too late waits for the worker that is free next; while one is idle, for none.
        """
        ready = self.ready_workers()
        return 0.0 if sum(not worker.calls for worker in ready) > 1 else 1 / len(ready)

    def statistics(self) -> StepStatistics:
        """Return a snapshot."""
        now = time.monotonic()
        hanging_for = self.hanging_for(now)
        limit = self.hang_limit() if hanging_for else 0.0
        is_lost = bool(hanging_for) and hanging_for >= limit + self._timing.give_up_after
        return StepStatistics(
            name=self.name,
            workers=tuple(worker.statistics() for worker in list(self.workers)),
            nprocs=self.nprocs,
            queued=self.queue.count,
            restarts=self.restarts,
            recycled=self.recycled,
            retries=self.retries,
            is_broken=self.budget.is_spent(now),
            is_given_up=self.budget.is_given_up(now) or is_lost,
            expected_wait=self.expected_wait(now),
            failed_launches=self.failed_launches,
            hanging_for=hanging_for if hanging_for >= limit else 0.0,
        )
