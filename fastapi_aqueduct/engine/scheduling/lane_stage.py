"""One step whose batches depend on keys or on what tasks cost, as the dispatcher sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..statistics import WorkerState
from ..timing import DEFAULT_TIMING, Timing
from ..workers.handle import WorkerHandle
from ..workers.pool import Pool
from .batch_delay import BatchDelay
from .lane_delay import LaneDelay
from .lane_queue import LaneQueue
from .marked_queue import MarkedQueue
from .meter import StepMeter
from .stage import Stage
from .ticket import Ticket


class LaneStage(Stage):
    """A step with keys or costs.

    In a continuous step a worker has room for a task as long as those in its call cost no more than the limit together.
    The most urgent task waits for room, and no other one passes it: cheap ones would keep an expensive one waiting.
    """

    queue: MarkedQueue[Ticket]

    def _make_queue(
        self, timeout: float, is_patient: bool, priorities: int
    ) -> tuple[MarkedQueue[Ticket], BatchDelay | None]:
        size = self.pool.step.call_size
        queue: LaneQueue[Ticket] = LaneQueue(size, timeout, priorities, self._most_cost)
        return queue, LaneDelay(size, queue) if is_patient else None

    @property
    def _most_cost(self) -> float:
        cost = self.pool.step.batch_cost
        return math.inf if cost is None else cost.limit

    @property
    def _has_rounds(self) -> bool:
        step = self.pool.step
        return step.continuous and step.batch_cost is not None

    def idle_worker(self) -> WorkerHandle | None:
        """Return a ready worker without a task, also where a canary could have one more."""
        worker = super().idle_worker()
        return worker if worker is None or not (self._has_rounds and worker.in_flight.calls) else None

    def has_room(self, worker: WorkerHandle, now: float) -> bool:
        """Tell whether the next task may join those that a worker has in hand; see `Stage.has_room`."""
        return not self._has_rounds or self.can_join([self.queue.head(now)], worker)

    def can_join(self, tickets: Sequence[Ticket], worker: WorkerHandle) -> bool:
        """Tell whether tasks, and those that a worker has in hand, cost no more than the limit together."""
        if not self._has_rounds or not worker.in_flight.calls:
            return True
        cost = sum(ticket.marks.cost for ticket in (*worker.in_flight.tickets(), *tickets))
        return bool(cost <= self._most_cost)

    def free_worker(self, may_wait: bool, now: float) -> tuple[WorkerHandle | None, int]:
        """Choose the worker that should get the next batch; see `Stage.free_worker`."""
        if not self._has_rounds or self.queue.has_alone:
            return super().free_worker(may_wait, now)
        workers = [
            worker
            for worker in self.workers
            if worker.state is WorkerState.READY
            and worker.in_flight.calls < worker.in_flight.prefetch
            and (may_wait or not worker.in_flight.calls)
            and self.has_room(worker, now)
        ]
        return min(workers, key=_calls_of, default=None), 1


def make_stage(
    pool: Pool, queue_size: int, priorities: int, meter: StepMeter | None = None, timing: Timing = DEFAULT_TIMING
) -> Stage:
    """Make what the dispatcher and the scheduler need of a step; see `Stage`."""
    is_plain = pool.step.batch_key is None and pool.step.batch_cost is None
    return (Stage if is_plain else LaneStage)(pool, queue_size, priorities, meter, timing)


def _calls_of(worker: WorkerHandle) -> int:
    return worker.in_flight.calls
