"""The workers of one step: their slots, their states, and how often they die."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from typing import Protocol

from ...exceptions import ConfigurationError, WorkerDied
from ..incidents import IncidentLog
from ..memory.regions import CANARY, REPLACEMENT
from ..statistics import DeathCause, WearKind, WorkerRole, WorkerState
from ..timing import DEFAULT_TIMING, Timing
from ..wire.frames import Kind
from .change import Change
from .handle import WorkerHandle
from .integral import Integral
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
        spec: What new workers run.
        last_version: The highest version there was: a version that did not come to serve gives its number to no other.
        size: How many workers the step should have now; 0 while it is asleep.
        is_waking: Whether it was asleep and has no ready worker yet.
        slots: The places of workers: more than the step has workers, so that a replacement can be ready before the
            worker leaves that it replaces.
        change: The replacement, scaling or trial that is under way.
        has_wear: Whether workers are replaced because of their tasks, age or memory.
        observer: Receives the events of the pool; set before the first launch.
        shadow_observer: Receives those of a shadow in its place; None while there is no shadow.
        workers: The workers that serve, of any state, in the order of their launches; always the same list.
        beside: The workers that try out another handler.
        budget: Decides whether workers die too often.
        load_time: Seconds from launch to ready of the last worker.
        quickest_load: The smallest of these times; a busy machine makes others longer.
        restarts: Workers that died and were replaced, by the cause of their death.
        failed_launches: Launches that failed before there was a worker.
        recycled: Workers that were replaced because they were worn, by the kind of wear.
        log_records_dropped: Log records of its workers that were dropped.
        incidents: What has gone wrong lately.
    """

    observer: PoolObserver

    def __init__(self, spec: WorkerSpec, regions: Iterable[int], timing: Timing = DEFAULT_TIMING) -> None:
        step = spec.step
        self.index = spec.index
        self.name = spec.name
        self.step = step
        self.spec = spec
        self.last_version = spec.version
        self.size = step.nprocs
        self.is_waking = False
        self.change: Change | None = None
        self.slots = [Slot(spec, region, RestartPolicy(timing)) for region in regions]
        self.has_wear = not (step.max_tasks is step.max_age is step.max_memory_growth is None)
        self.shadow_observer: PoolObserver | None = None
        self.workers: list[WorkerHandle] = []
        self.beside: list[WorkerHandle] = []
        self.budget = RestartBudget(time.monotonic(), step.most_workers, timing)
        self.load_time = 1.0
        self.quickest_load = math.inf
        self.restarts = dict.fromkeys(DeathCause, 0)
        self.failed_launches = 0
        self.recycled = dict.fromkeys(WearKind, 0)
        self.log_records_dropped = 0
        self.incidents = IncidentLog()
        self._timing = timing
        self._longest_call = 0.0
        self._ready = Integral()
        self._lost_time = self._occupied_time = 0.0  # of workers that are gone

    def close(self) -> None:
        """Release the programs, when no more workers are launched."""
        self.spec.close()
        if self.change is not None:
            self.change.close()

    @property
    def is_asleep(self) -> bool:
        """Whether the step has no workers because it has no tasks."""
        return not self.size

    def check_size(self, size: int) -> None:
        """Check that the step may have this number of workers.

        Raises:
            ConfigurationError: It may not.
        """
        autoscale = self.step.autoscale
        if autoscale is not None:
            if not autoscale.minimum <= size <= autoscale.maximum:
                raise ConfigurationError(f"{self.name} has nprocs={autoscale}, which does not allow {size} workers")
            return
        most = max(self.step.nprocs, len(self.slots) - REPLACEMENT - CANARY)
        if not 1 <= size <= most:
            raise ConfigurationError(
                f"{self.name} can have 1 to {most} workers while its flow runs, got {size}: the shared memory is "
                f"divided for nprocs={self.step.nprocs} or one worker for each core; declare the step with "
                f"nprocs=Autoscale(..., {max(size, most)}), or with a larger number"
            )

    def resize(self, size: int) -> None:
        """Note how many workers the step should have from now on."""
        if size != self.size:
            self.is_waking = size > 0 and (self.is_waking or self.is_asleep)
            self.size = size
            self._note_change()

    def missing(self) -> int:
        """Count the workers that the step lacks and that no launch and no timer will bring."""
        coming = sum(slot.replaces is not None for slot in self.slots)
        leaving = sum(worker.state in LEAVING for worker in self.workers)
        taken = sum(slot.serves and not slot.is_free for slot in self.slots)
        return max(0, self.size - taken + coming + leaving)

    def surplus(self) -> list[WorkerHandle]:
        """List the ready workers that are too many: those with the highest numbers."""
        coming = sum(slot.replaces is not None for slot in self.slots)
        staying = [worker for worker in self.workers if worker.state not in LEAVING]
        order = sorted(self.ready_workers(), key=lambda worker: worker.index, reverse=True)
        return order[: max(0, len(staying) - coming - self.size)]

    def vacancies(self) -> list[Slot]:
        """List a free slot for each worker that is missing."""
        return [slot for slot in self.slots if slot.is_free][: self.missing()]

    def free_index(self, slot: Slot) -> int:
        """Return the number of a worker that is launched in a slot: that of the one it replaces, or a free one."""
        if slot.replaces is not None:
            return slot.replaces.index
        if not slot.serves:
            return max(0, self.size - 1)  # that of the worker in whose place it comes if it is promoted
        taken = {worker.index for worker in self.workers if worker.state not in LEAVING}
        return next(index for index in itertools.count() if index not in taken)

    def is_changing(self) -> bool:
        """Tell whether a worker is being replaced or leaves, or another change is under way."""
        if self.change is not None or any(worker.state in LEAVING for worker in self.all_workers()):
            return True
        return any(slot.replaces is not None for slot in self.slots)

    def spare(self) -> Slot | None:
        """Return a free slot; None if there is none."""
        return next((slot for slot in self.slots if slot.is_free), None)

    def add(self, slot: Slot, worker: WorkerHandle) -> None:
        """Put a worker that is being launched into a slot."""
        slot.worker = worker
        worker.role = slot.role
        (self.workers if slot.serves else self.beside).append(worker)

    def keep(self, slot: Slot) -> None:
        """Make the worker of a trial one of those that serve, and its slot one of theirs."""
        worker, slot.role = slot.worker, WorkerRole.SERVING
        if worker is not None:
            worker.role = slot.role
            self.beside.remove(worker)
            self.workers.append(worker)
            self._note_change()

    def all_workers(self) -> list[WorkerHandle]:
        """List the workers that serve, and those that try out another handler."""
        return [*self.workers, *self.beside]

    def observer_of(self, worker: WorkerHandle) -> PoolObserver:
        """Return who receives the events of a worker."""
        return self.shadow_observer if worker.role is WorkerRole.SHADOW and self.shadow_observer else self.observer

    def note_ready(self, worker: WorkerHandle) -> None:
        """Note that a worker is ready."""
        if worker.role is WorkerRole.SERVING:
            self.load_time = worker.ready_at - worker.launched_at
            self.quickest_load = min(self.quickest_load, self.load_time)
            self.budget.note_load(self.load_time)
            self.is_waking = False
        self._note_change()

    def retire(self, worker: WorkerHandle) -> None:
        """Give no more tasks to a worker."""
        worker.state = WorkerState.RETIRING
        self._note_change()

    def remove(self, worker: WorkerHandle, error: WorkerDied) -> bool:
        """Remove a worker that is gone.

        Args:
            worker: The worker; its last frames have been received.
            error: The error for the tasks that it had in hand.

        Returns:
            Whether a task in its hands had killed another worker before.
        """
        observer = self.observer_of(worker)
        (self.workers if worker.role is WorkerRole.SERVING else self.beside).remove(worker)
        if worker.role is not WorkerRole.SHADOW:
            self._longest_call = max(self._longest_call, worker.in_flight.longest)
            now = time.monotonic()
            self._lost_time += worker.unanswered_time(now)
            self._occupied_time += worker.in_flight.occupied.total(now)
        try:
            return observer.remove(worker, error)
        finally:
            self._note_change()

    def _note_change(self) -> None:
        now, ready = time.monotonic(), len(self.ready_workers())
        self.budget.note_ready(now, ready > 0 or self.is_asleep)
        self._ready.set(sum(worker.state is WorkerState.READY for worker in self._tasked()), now)
        self.observer.note_workers(self.index)

    def ready_time(self, now: float) -> float:
        """Return the seconds that workers have been ready, all together."""
        return self._ready.total(now)

    def unanswered_time(self, now: float) -> float:
        """Return the seconds of calls without an answer: those under way, and those in which workers have died."""
        return self._lost_time + sum([worker.unanswered_time(now) for worker in self._tasked()])

    def occupied_time(self, now: float) -> float:
        """Return the seconds of calls side by side, divided by the number of places of a worker."""
        occupied = sum([worker.in_flight.occupied.total(now) for worker in self._tasked()])
        return (self._occupied_time + occupied) / self.step.places

    def ready_workers(self) -> list[WorkerHandle]:
        """List the workers that serve and accept tasks."""
        return [worker for worker in self.workers if worker.state is WorkerState.READY]

    def _tasked(self) -> list[WorkerHandle]:
        """List the workers that work on tasks, and not on copies of them."""
        return [worker for worker in self.all_workers() if worker.role is not WorkerRole.SHADOW]

    def expected_wait(self, now: float) -> float:
        """Return the seconds until a worker should be ready; 0 when one is; while the step is asleep, if it were woken.

        Args:
            now: The time on the clock of ``time.monotonic``, by which the timers of event loops go, too.
        """
        if self.ready_workers():
            return 0.0
        launches = [worker.launched_at for worker in list(self.workers) if worker.state is WorkerState.STARTING]
        launches += [timer.when() for slot in self.slots if slot.serves and (timer := slot.restart) is not None]
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
        if slot.serves and life.load >= self._timing.quick_load and not is_repeated:
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
        if slot.serves:
            self.is_waking = False  # its worker needs longer than the last one, and it is not known how much
        delay = slot.policy.after_failure()
        if slot.serves and not self.ready_workers():  # a step whose other workers serve is not broken
            self.budget.note_failure(now)
        return self._delay(slot, delay, now)

    def _delay(self, slot: Slot, delay: float, now: float) -> float:
        return max(delay, slot.policy.longest_wait()) if self.budget.is_spent(now) else delay

    def is_broken(self, now: float) -> bool:
        """Tell whether workers die so often that the step counts as not ready."""
        return not self.is_asleep and self.budget.is_spent(now)

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
