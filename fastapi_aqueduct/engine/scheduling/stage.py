"""One step as the dispatcher sees it: the tasks that wait for it, and the workers that it may give them to."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Protocol

from ..statistics import StepStatistics, WorkerState
from ..timing import DEFAULT_TIMING, Timing
from ..workers.handle import WorkerHandle
from ..workers.in_flight import MAX_PREFETCH, Outgoing
from ..workers.pool import Pool
from .batch_delay import BatchDelay
from .comparison import Comparison
from .fair_queue import FairQueue
from .load import Load
from .meter import StepMeter
from .queue import BatchQueue
from .runs import Runs
from .split import Split
from .ticket import Ticket
from .waiters import Waiters


class Copier(Protocol):
    """Sends copies of tasks to a shadow."""

    def copy(self, batches: Sequence[Outgoing[Ticket]], now: float) -> None:
        """Copy tasks that have been sent to a worker.

        Args:
            batches: The tasks.
            now: The time on the clock of ``time.monotonic``.
        """

    def release_pairs(self) -> None:
        """Drop the answers that wait to be read: the flow needs their memory."""


class Stage:
    """What the dispatcher and the scheduler know about one step.

    Args:
        pool: Its workers.
        queue_size: Tasks that may wait for it, in each level.
        priorities: Number of levels.
        meter: Measures it; None: nothing does.
        timing: The times of the engine.

    Attributes:
        name: Name of the step.
        pool: Its workers.
        workers: Its workers, of any state: the pool's own list.
        queue: The tasks that wait for it.
        fair: The same, if tenants share it; else None.
        batch_delay: Decides how long a batch waits; None when a fixed time does.
        waiters: Where callers wait for a place in the queue.
        takes_at_once: Whether a task gains nothing by waiting for others: batches have one task and no timeout.
        due_at: When the scheduler must look at it again if nothing happens before, on the clock of ``time.monotonic``.
        max_retries: How often a task is tried again after a worker has died with it.
        retries: Tasks that were tried again.
        places: Calls that one worker has under way at once; 0: one after the other.
        meter: As given.
        load: How busy its workers are.
        held_since: Since when a batch waits for more tasks while a worker is idle; 0 while none does.
        split: Gives a canary its share of the tasks; None while there is no canary.
        copier: Sends copies of tasks to a shadow; None while there is no shadow.
        comparison: Counts what a canary or shadow answers, and the others; None while there is neither.
        runs: The runs that tasks share; None when they share none.
        sends_patches: Whether workers answer with what they have changed of a task.
    """

    fair: FairQueue[Ticket] | None = None

    def __init__(
        self,
        pool: Pool,
        queue_size: int,
        priorities: int,
        meter: StepMeter | None = None,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        step = pool.step
        self.name = pool.name
        self.pool = pool
        self.workers = pool.workers
        # With calls side by side a batch that waits leaves places unused, and gains no worker's time.
        is_patient = step.batch_timeout == "auto" and not step.places
        timeout = 0.0 if step.batch_timeout == "auto" else step.batch_timeout
        self.queue, self.batch_delay = self._make_queue(timeout, is_patient and step.call_size > 1, priorities)
        self.waiters = Waiters(self.queue, queue_size)
        self.takes_at_once = step.call_size == 1 and timeout == 0 and priorities == 1
        self.due_at = math.inf
        self.meter = meter
        self.load = Load(pool, timing.busy_window)
        self.held_since = 0.0
        self.split: Split | None = None
        self.copier: Copier | None = None
        self.comparison: Comparison | None = None
        self.runs: Runs[Ticket] | None = None if step.coalesce_key is None else Runs()
        self.sends_patches = False
        self.max_retries = step.max_retries
        self.retries = 0
        self.places = step.places
        self._most_calls = max(MAX_PREFETCH, step.places)

    def _make_queue(
        self, timeout: float, is_patient: bool, priorities: int
    ) -> tuple[BatchQueue[Ticket], BatchDelay | None]:
        """Make the queue, and what decides how long a batch waits there."""
        size = self.pool.step.call_size
        return BatchQueue(size, timeout, priorities), BatchDelay(size) if is_patient else None

    def expected_time(self, calls: int | None = None) -> float:
        """Return the seconds that a task arriving now should take here at the measured rate.

        Args:
            calls: The calls of the handler until the one that has the task; None: those for all tasks that wait.
        """
        waiting = self.queue.calls(1) if calls is None else calls
        if self.places:
            return self._expected_time_of_concurrent_calls(waiting)
        workers = self.workers[:]  # a copy: another thread may call this
        if len(workers) == 1:
            worker = workers[0]
            in_flight = worker.in_flight
            return in_flight.pace * (waiting + in_flight.calls) if worker.state is WorkerState.READY else 0.0
        ready = self.pool.ready_workers()
        if not ready:
            return 0.0
        pace = sum(worker.in_flight.pace for worker in ready) / len(ready)
        batches = waiting + sum(worker.in_flight.calls for worker in ready)
        return pace * max(1.0, batches / len(ready))

    def _expected_time_of_concurrent_calls(self, waiting: int) -> float:
        ready = self.pool.ready_workers()
        ahead = waiting - sum(worker.in_flight.prefetch - worker.in_flight.calls for worker in ready)
        if ahead <= 0 or not ready:
            return 0.0
        pace = sum(worker.in_flight.pace for worker in ready) / len(ready)
        return pace * ahead / (self.places * len(ready))

    @property
    def supply(self) -> int:
        """Tasks in the queue that keep its workers busy: a batch for each, and the one after that."""
        return 2 * self.queue.batch_size * max(1, self.places) * max(1, len(self.workers))

    def idle_worker(self) -> WorkerHandle | None:
        """Return a ready worker without a task; None when there is none.

        A canary may have some in hand: it would not keep up with its share of cheap tasks otherwise.
        """
        if self.split is not None:
            canary = self.split.idle_canary()
            if canary is not None:
                return canary
        for worker in self.workers:
            if not worker.in_flight.calls and worker.state is WorkerState.READY:
                return worker
        return None

    def has_room(self, worker: WorkerHandle, now: float) -> bool:
        """Tell whether the next batch may join what a worker has in hand, as far as that depends on the batch."""
        return True

    def can_join(self, tickets: Sequence[Ticket], worker: WorkerHandle) -> bool:
        """Tell whether tasks may join what a worker has in hand, as far as that depends on them."""
        return True

    def free_worker(self, may_wait: bool, now: float) -> tuple[WorkerHandle | None, int]:
        """Choose the worker that should get the next batches: the one with the fewest calls in hand.

        Args:
            may_wait: Whether a batch may wait at a worker that has others in hand.
            now: The time on the clock of ``time.monotonic``.

        Returns:
            The worker, None when all have enough tasks; and for how many calls of its handler it should get tasks.
        """
        worker, fewest = None, self._most_calls
        for other in self.workers:
            in_flight = other.in_flight
            if in_flight.calls < fewest and in_flight.calls < in_flight.prefetch and other.state is WorkerState.READY:
                worker, fewest = other, in_flight.calls
                if not fewest:
                    break
        if self.places and self.queue.has_alone:  # it may have killed a worker: no other task is in the same hands
            return (worker, 1) if worker is not None and not fewest else (None, 0)
        if worker is None or (fewest and not may_wait):
            return None, 0
        if not may_wait:
            return worker, 1
        # With several workers each gets its share of the tasks, not the first of them all.
        share = -(-self.queue.count // (self.queue.batch_size * len(self.workers)))
        return worker, min(worker.in_flight.prefetch - fewest, worker.in_flight.calls_per_batch, share)

    def share(self) -> float:
        """Return the part of a call's fixed time that a task saves by joining a batch in time.

        A task that is late waits for the worker that is free next; if another worker is idle, it does not wait.
        """
        ready = self.pool.ready_workers()
        return 0.0 if sum(not worker.in_flight.calls for worker in ready) > 1 else 1 / (len(ready) or 1)

    def tasked_workers(self) -> list[WorkerHandle]:
        """List the workers that may have tasks in hand, with a canary."""
        canary = self.split.canary if self.split is not None else None
        return self.workers if canary is None else [*self.workers, canary]

    def statistics(self) -> StepStatistics:
        """Return a snapshot."""
        now = time.monotonic()
        pool = self.pool
        hanging_for, hang_limit, change = pool.hanging_for(now), pool.hang_limit(), pool.change
        histograms = self.meter.histograms() if self.meter is not None else None
        return StepStatistics(
            name=self.name,
            workers=tuple(worker.statistics(now, hang_limit) for worker in pool.all_workers()),
            nprocs=pool.size,
            version=pool.spec.version,
            queued=self.queue.count,
            queued_by_priority=tuple(self.queue.waiting(level) for level in range(self.queue.levels)),
            restarts=sum(pool.restarts.values()),
            recycled=sum(pool.recycled.values()),
            log_records_dropped=pool.log_records_dropped,
            retries=self.retries,
            coalesced=0 if self.runs is None else self.runs.followers,
            is_broken=pool.is_broken(now),
            is_given_up=pool.is_given_up(now),
            is_asleep=pool.is_asleep,
            is_waking=pool.is_waking,
            expected_wait=pool.expected_wait(now),
            failed_launches=pool.failed_launches,
            hanging_for=hanging_for if hanging_for and hanging_for >= hang_limit else 0.0,
            expected_time=self.expected_time(),
            restarts_by_cause=dict(pool.restarts),
            recycled_by_kind=dict(pool.recycled),
            load=self.load.read(histograms.handle_time.sum, now) if histograms is not None else None,
            histograms=histograms,
            change=change.what if change is not None else "",
            trial=change.report() if change is not None else None,
            incidents=pool.incidents.recent(),
        )
