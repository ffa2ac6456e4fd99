"""One step as the dispatcher sees it: who waits for it and who works on it."""

from __future__ import annotations

import asyncio
import time

from ..step import FlowStep
from .batching import BatchQueue
from .entry import Entry
from .link import WorkerLink
from .record import Record
from .restart import RestartBudget
from .statistics import StepStatistics, WorkerState


class StepDesk:
    """Everything about one step that the dispatcher decides by.

    Args:
        name: Name of the step.
        step: Its settings.
        queue_size: Tasks that may wait for it, in each level.
        priorities: Number of levels.

    Attributes:
        name: Name of the step.
        nprocs: How many workers it should have.
        queue: The tasks that wait for it.
        links: Its workers, of any state.
        entry: Where callers wait for a place in the queue.
        timer: Wakes the dispatcher when a batch that is not full is due.
        max_retries: How often a task is tried again after a worker has died with it.
        budget: Whether workers die too often.
        expected_ready_at: When a worker should be ready again, on the clock of ``time.monotonic``.
        load_time: Seconds the last worker took to become ready.
        restarts: Workers that died and were replaced.
        recycled: Workers that were replaced because they were worn.
        retries: Tasks that were tried again.
    """

    def __init__(self, name: str, step: FlowStep, queue_size: int, priorities: int) -> None:
        self.name = name
        self.nprocs = step.nprocs
        self.queue: BatchQueue[Record] = BatchQueue(step.batch_size, step.batch_timeout, priorities)
        self.links: list[WorkerLink] = []
        self.entry = Entry(self.queue, queue_size)
        self.timer: asyncio.TimerHandle | None = None
        self.max_retries = step.max_retries
        self.budget = RestartBudget(time.monotonic(), step.nprocs)
        self.expected_ready_at = 0.0
        self.load_time = 1.0
        self.restarts = 0
        self.recycled = 0
        self.retries = 0

    def ready_links(self) -> list[WorkerLink]:
        """List the workers that take tasks."""
        return [link for link in self.links if link.state is WorkerState.READY]

    def expected_wait(self, now: float) -> float:
        """Tell in how many seconds a worker should be ready; 0 when one is."""
        return 0.0 if self.ready_links() else max(0.1, self.expected_ready_at - now)

    def expected_time(self) -> float:
        """Tell how long a task that comes now should take here at the measured rate, in seconds."""
        ready = self.ready_links()
        if not ready:
            return 0.0
        pace = sum(link.time_per_call() for link in ready) / len(ready)
        batches = -(-(len(self.queue) + 1) // self.queue.batch_size) + sum(link.calls for link in ready)
        return pace * max(1.0, batches / len(ready))

    def free_link(self, may_wait: bool) -> tuple[WorkerLink | None, int]:
        """Choose the worker that should get the next batches.

        Args:
            may_wait: Whether a batch may wait in a worker's hands until that has done others.

        Returns:
            The worker, None when all have enough; and for how many calls of its handler it should get tasks.
        """
        best: WorkerLink | None = None
        for link in self.links:
            if link.room() > 0 and (best is None or link.calls < best.calls):
                best = link
        if best is None or (best.calls and not may_wait):
            return None, 0
        if not may_wait:
            return best, 1
        # With several workers the tasks that are here are dealt out, not poured into the first.
        share = -(-len(self.queue) // (self.queue.batch_size * len(self.links)))
        return best, min(best.room(), best.calls_per_batch(), share)

    def statistics(self) -> StepStatistics:
        """Return a snapshot."""
        now = time.monotonic()
        return StepStatistics(
            name=self.name,
            workers=tuple(link.statistics() for link in list(self.links)),
            nprocs=self.nprocs,
            queued=len(self.queue),
            restarts=self.restarts,
            recycled=self.recycled,
            retries=self.retries,
            is_broken=self.budget.is_spent(now),
            is_given_up=self.budget.is_given_up(now),
            expected_wait=self.expected_wait(now),
        )
