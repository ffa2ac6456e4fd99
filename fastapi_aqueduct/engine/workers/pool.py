"""The workers of one step: which of them are there, and how well the step does."""

from __future__ import annotations

import math
import time
from typing import Protocol

from ...exceptions import WorkerDied
from ...step import FlowStep
from ..statistics import WorkerState
from ..timing import DEFAULT_TIMING, Timing
from ..wire.frames import Kind
from .handle import WorkerHandle
from .restart import Life, RestartBudget


class PoolObserver(Protocol):
    """Learns what happens in a pool: the side that gives tasks to its workers."""

    def receive(self, worker: WorkerHandle, kind: Kind, payload: bytes) -> None:
        """Handle a frame from a worker.

        Raises:
            ProtocolError: The frame makes no sense.
        """

    def note_workers(self, index: int) -> None:
        """Handle a change in which workers of a step take tasks.

        Args:
            index: Index of the step.
        """

    def remove(self, worker: WorkerHandle, error: WorkerDied) -> bool:
        """Handle the loss of a worker, which is in no pool any more.

        Args:
            worker: The worker; its last frames have been received.
            error: How its process ended.

        Returns:
            Whether it died with a task in hand with which another worker has died before.
        """


class Pool:
    """The workers of one step.

    Args:
        index: Index of the step.
        name: Name of the step.
        step: Its settings.
        timing: When the step counts as broken, hanging, or given up.

    Attributes:
        index: Index of the step.
        name: Name of the step.
        step: Its settings.
        wears: Whether its workers are replaced after so much work, time or growth.
        observer: Learns what happens; set before the first launch.
        workers: The workers, of any state, in the order of their launches. The list stays the same object.
        budget: Whether workers die too often.
        load_time: Seconds the last worker took to become ready.
        quickest_load: Seconds that the worker took that loaded most quickly; a busy machine makes the others slow.
        restarts: Workers that died and were replaced.
        failed_launches: Launches that failed before there was a worker.
        recycled: Workers that were replaced because they were worn.
    """

    observer: PoolObserver

    def __init__(self, index: int, name: str, step: FlowStep, timing: Timing = DEFAULT_TIMING) -> None:
        self.index = index
        self.name = name
        self.step = step
        self.wears = not (step.max_tasks is step.max_age is step.max_memory_growth is None)
        self.workers: list[WorkerHandle] = []
        self.budget = RestartBudget(time.monotonic(), step.nprocs, timing)
        self.load_time = 1.0
        self.quickest_load = math.inf
        self.restarts = 0
        self.failed_launches = 0
        self.recycled = 0
        self._timing = timing
        self._expected_ready_at = 0.0
        self._longest_call = 0.0

    def add(self, worker: WorkerHandle) -> None:
        """Add a worker that is being launched."""
        self.workers.append(worker)
        self.expect_worker(worker.launched_at + self.load_time, worker.launched_at)

    def note_ready(self, worker: WorkerHandle) -> None:
        """Count a worker in that is ready."""
        self.load_time = worker.ready_at - worker.launched_at
        self.quickest_load = min(self.quickest_load, self.load_time)
        self.budget.note_load(self.load_time)
        self._note_change()

    def retire(self, worker: WorkerHandle) -> None:
        """Give no more tasks to a worker that is worn."""
        worker.state = WorkerState.RETIRING
        self.recycled += 1
        self._note_change()

    def remove(self, worker: WorkerHandle, error: WorkerDied) -> bool:
        """Remove a worker that is gone.

        Args:
            worker: The worker; its last frames have been received.
            error: How its process ended.

        Returns:
            Whether it died with a task in hand with which another worker has died before.
        """
        self.workers.remove(worker)
        self._longest_call = max(self._longest_call, worker.in_flight.longest)
        try:
            return self.observer.remove(worker, error)
        finally:
            self._note_change()

    def _note_change(self) -> None:
        self.budget.note_ready(time.monotonic(), bool(self.ready_workers()))
        self.observer.note_workers(self.index)

    def ready_workers(self) -> list[WorkerHandle]:
        """List the workers that take tasks."""
        return [worker for worker in self.workers if worker.state is WorkerState.READY]

    def expected_wait(self, now: float) -> float:
        """Return the seconds until a worker should be ready; 0 when one is."""
        return 0.0 if self.ready_workers() else max(0.1, self._expected_ready_at - now)

    def expect_worker(self, at: float, now: float) -> None:
        """Note when a worker should be ready; the earliest time counts.

        Args:
            at: When it should be, on the clock of ``time.monotonic``.
            now: The time on that clock.
        """
        if self._expected_ready_at <= now or at < self._expected_ready_at:
            self._expected_ready_at = at

    def note_death(self, life: Life, now: float) -> None:
        """Count the death of a worker that was ready, if its load is dear; those with one task in hand count once."""
        if life.load >= self._timing.quick_load and not life.is_repeated:
            self.budget.note_death(now)

    def is_broken(self, now: float) -> bool:
        """Tell whether workers die so often that the step counts as not ready."""
        return self.budget.is_spent(now)

    def is_given_up(self, now: float) -> bool:
        """Tell whether only a restart of the server may help: no worker is ready, or all hang, for too long."""
        if self.budget.is_given_up(now):
            return True
        hanging_for = self.hanging_for(now)
        return bool(hanging_for) and hanging_for >= self.hang_limit() + self._timing.give_up_after

    def hanging_for(self, now: float) -> float:
        """Return for how long all workers have been in calls whose tasks have all ended without them.

        Args:
            now: The time on the clock of ``time.monotonic``.

        Returns:
            Seconds; 0 while a worker works, is idle or loads.
        """
        workers = list(self.workers)  # a copy: this may be asked from another thread
        ready = [worker for worker in workers if worker.state is WorkerState.READY]
        if not ready or any(worker.state is WorkerState.STARTING for worker in workers):
            return 0.0
        return max(0.0, now - max(worker.hanging_since() for worker in ready))

    def hang_limit(self) -> float:
        """Return the seconds that a call may take before the step counts as hanging."""
        longest = max((worker.in_flight.longest for worker in list(self.workers)), default=0.0)
        return max(self._timing.hang_after, 3 * max(self._longest_call, longest))
