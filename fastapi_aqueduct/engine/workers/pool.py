"""The workers of one step: their slots, their states, and how often they die."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Protocol

from ...exceptions import WorkerDied
from ..statistics import WorkerState
from ..timing import DEFAULT_TIMING, Timing
from ..wire.frames import Kind
from .handle import WorkerHandle
from .restart import Life, RestartBudget, RestartPolicy
from .slot import Slot
from .spec import WorkerSpec

LEAVING = (WorkerState.RETIRING, WorkerState.STOPPING)
"""States of a worker that has been replaced."""


class PoolObserver(Protocol):
    """Receives the events of a pool; the dispatcher is one."""

    def receive(self, worker: WorkerHandle, kind: Kind, payload: bytes) -> None:
        """Handle a frame from a worker.

        Raises:
            ProtocolError: The frame is invalid.
        """

    def note_workers(self, index: int) -> None:
        """Handle a change of the workers that accept tasks.

        Args:
            index: Index of the step.
        """

    def remove(self, worker: WorkerHandle, error: WorkerDied) -> bool:
        """Handle the end of a worker, which the pool has removed.

        Args:
            worker: The worker; its last frames have been received.
            error: The error for the tasks that it had in hand.

        Returns:
            Whether a task in its hands had killed another worker before.
        """


class Pool:
    """The workers of one step.

    Args:
        spec: What they run.
        regions: The regions of shared memory in which they allocate, one for each slot.
        timing: When the step counts as broken, hanging, or given up.

    Attributes:
        index: Index of the step.
        name: Name of the step.
        step: Its options.
        spec: What the workers run.
        slots: The places of workers: one more than the step has workers, so that a replacement can be ready before the
            worker leaves that it replaces.
        has_wear: Whether workers are replaced because of their tasks, age or memory.
        observer: Receives the events of the pool; set before the first launch.
        workers: The workers of any state in the order of their launches; always the same list.
        budget: Decides whether workers die too often.
        load_time: Seconds from launch to ready of the last worker.
        quickest_load: The smallest of these times; a busy machine makes others longer.
        restarts: Workers that died and were replaced.
        failed_launches: Launches that failed before there was a worker.
        recycled: Workers that were replaced because they were worn.
    """

    observer: PoolObserver

    def __init__(self, spec: WorkerSpec, regions: Iterable[int], timing: Timing = DEFAULT_TIMING) -> None:
        step = spec.step
        self.index = spec.index
        self.name = spec.name
        self.step = step
        self.spec = spec
        self.slots = [Slot(spec, place, region, RestartPolicy(timing)) for place, region in enumerate(regions)]
        self.has_wear = not (step.max_tasks is step.max_age is step.max_memory_growth is None)
        self.workers: list[WorkerHandle] = []
        self.budget = RestartBudget(time.monotonic(), step.nprocs, timing)
        self.load_time = 1.0
        self.quickest_load = math.inf
        self.restarts = 0
        self.failed_launches = 0
        self.recycled = 0
        self._timing = timing
        self._longest_call = 0.0

    def missing(self) -> int:
        """Count the workers that the step lacks and that no launch and no timer will bring."""
        coming = sum(slot.replaces is not None for slot in self.slots)
        leaving = sum(slot.worker is not None and slot.worker.state in LEAVING for slot in self.slots)
        taken = sum(not slot.is_free for slot in self.slots)
        return max(0, self.step.nprocs - taken + coming + leaving)

    def vacancies(self) -> list[Slot]:
        """List a free slot for each worker that is missing."""
        return [slot for slot in self.slots if slot.is_free][: self.missing()]

    def add(self, slot: Slot, worker: WorkerHandle) -> None:
        """Put a worker that is being launched into a slot."""
        slot.worker = worker
        self.workers.append(worker)

    def note_ready(self, worker: WorkerHandle) -> None:
        """Note that a worker is ready."""
        self.load_time = worker.ready_at - worker.launched_at
        self.quickest_load = min(self.quickest_load, self.load_time)
        self.budget.note_load(self.load_time)
        self._note_change()

    def retire(self, worker: WorkerHandle) -> None:
        """Give no more tasks to a worn worker, whose replacement is ready."""
        worker.state = WorkerState.RETIRING
        self.recycled += 1
        self._note_change()

    def remove(self, worker: WorkerHandle, error: WorkerDied) -> bool:
        """Remove a worker that is gone.

        Args:
            worker: The worker; its last frames have been received.
            error: The error for the tasks that it had in hand.

        Returns:
            Whether a task in its hands had killed another worker before.
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
        """List the workers that accept tasks."""
        return [worker for worker in self.workers if worker.state is WorkerState.READY]

    def expected_wait(self, now: float) -> float:
        """Return the seconds until a worker should be ready; 0 when one is.

        Args:
            now: The time on the clock of ``time.monotonic``, by which the timers of event loops go, too.
        """
        if self.ready_workers():
            return 0.0
        launches = [worker.launched_at for worker in list(self.workers) if worker.state is WorkerState.STARTING]
        launches += [timer.when() for slot in self.slots if (timer := slot.restart) is not None]
        return max(0.1, min(launches, default=now) + self.load_time - now)

    def delay_after_death(self, slot: Slot, worker: WorkerHandle, is_repeated: bool) -> float:
        """Count the death of a worker that was ready.

        Args:
            slot: Its slot.
            worker: The worker.
            is_repeated: Whether a task in its hands had killed another worker before.

        Returns:
            Seconds until the next launch in the slot.
        """
        now = time.monotonic()
        age, lifetime = now - worker.launched_at, now - worker.ready_at
        life = Life(age, lifetime, self.quickest_load, worker.in_flight.handled > 0, is_repeated)
        delay = slot.policy.after_death(life)
        # Where a load is cheap, a death costs little; those with one task in hand count once.
        if life.load >= self._timing.quick_load and not is_repeated:
            self.budget.note_death(now)
        return self._delay(slot, delay, now)

    def delay_after_failure(self, slot: Slot) -> float:
        """Count a launch that failed, or a death before the worker was ready.

        Args:
            slot: Its slot.

        Returns:
            Seconds until the next launch in the slot.
        """
        now = time.monotonic()
        delay = slot.policy.after_failure()
        if not self.ready_workers():  # a step whose other workers serve is not broken
            self.budget.note_failure(now)
        return self._delay(slot, delay, now)

    def _delay(self, slot: Slot, delay: float, now: float) -> float:
        return max(delay, slot.policy.longest_wait()) if self.budget.is_spent(now) else delay

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
        workers = list(self.workers)  # a copy: another thread may call this
        ready = [worker for worker in workers if worker.state is WorkerState.READY]
        if not ready or any(worker.state is WorkerState.STARTING for worker in workers):
            return 0.0
        return max(0.0, now - max(worker.hanging_since() for worker in ready))

    def hang_limit(self) -> float:
        """Return the seconds that a call may take before the step counts as hanging."""
        longest = max((worker.in_flight.longest for worker in list(self.workers)), default=0.0)
        return max(self._timing.hang_after, 3 * max(self._longest_call, longest))
