"""Forms batches and chooses the workers that get them.

The scheduler decides synchronously and returns what is to be sent. It knows no clock, no event loop and no socket.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sized

from ..route import Route
from ..workers.handle import WorkerHandle
from ..workers.in_flight import PREFETCH, Outgoing
from .batch_delay import BatchDelay
from .echoes import ECHO, SHARE, Echoes
from .fair_queue import FairQueue
from .gate import Gate
from .split import Split
from .stage import Stage
from .ticket import Ticket

Assignments = dict[WorkerHandle, list[Outgoing[Ticket]]]
"""The batches that are to be sent, by worker; they are in the workers' in-flight tables already."""


class Scheduler:
    """Assigns the tasks that wait to workers.

    Args:
        stages: The steps.
        arrivals: The bodies of requests that arrive: tasks that are to be expected.
        queue_size: Tasks that may wait for a step, in each level.
        route: The route of tasks through the steps.

    Attributes:
        echoes: Tells whether tasks of other API processes are expected; None while this process serves none.
    """

    def __init__(self, stages: list[Stage], arrivals: Sized, queue_size: int, route: Route) -> None:
        self.echoes: Echoes | None = None
        self._stages = stages
        self._arrivals = arrivals
        self._queue_size = queue_size
        self._last = len(stages) - 1
        self._before = [[stages[step] for step in steps] for steps in route.before]
        self._behind = [[stages[step] for step in steps] for steps in route.behind]
        self._gate = Gate(stages[1:]) if stages[0].fair is not None else None

    def assign(self, now: float) -> Assignments:
        """Form batches for the workers of all steps, as far as they should get more now.

        Args:
            now: The time on the clock of ``time.monotonic``.
        """
        assignments: Assignments = {}
        for index in range(self._last, -1, -1):  # the last step first: places become free for those before
            self._assign_stage(index, now, assignments)
        return assignments

    def assign_at_once(self, ticket: Ticket, now: float) -> Assignments:
        """Assign a task that has just arrived to an idle worker, if a larger batch is not to be had.

        A turn of the event loop later others could go in the same frame, but that worker would be idle until then.

        Args:
            ticket: The task; it is in no queue.
            now: The time on the clock of ``time.monotonic``.

        Returns:
            Nothing when the task has to wait in the queue.
        """
        stage = self._stages[ticket.step]
        if not stage.takes_at_once or stage.queue.count or self._free_after(ticket.step) <= 0:
            return {}
        worker = stage.idle_worker()
        if worker is None:
            return {}
        if stage.split is not None:
            stage.split.note(worker, 1)
        return {worker: [worker.in_flight.put([ticket], worker.pid, now)]}

    def refill(self, worker: WorkerHandle, now: float) -> Assignments:
        """Form the next batch of a worker that has answered its last one, if it is full and calls take long.

        The callers of the last batch go on after that: whatever they do with their answers, such as sending responses,
        would be lost time for the worker.

        Args:
            worker: The worker.
            now: The time on the clock of ``time.monotonic``.
        """
        assignments: Assignments = {}
        queue = self._stages[worker.step].queue
        in_flight = worker.in_flight
        if not in_flight.calls and in_flight.pace > PREFETCH and queue.is_next_full(now):
            self._assign_stage(worker.step, now, assignments)
        return assignments

    def due_at(self) -> float:
        """Return when `assign` is to be called if nothing happens before; infinity when no task waits for a time."""
        return min([stage.due_at for stage in self._stages])

    def _assign_stage(self, index: int, now: float, assignments: Assignments) -> None:
        stage = self._stages[index]
        queue, split = stage.queue, stage.split
        stage.due_at = math.inf
        if not queue.count:
            return
        delay = stage.batch_delay
        if delay is not None and not delay.is_worthwhile:
            delay = None
        free = places = self._free_after(index)
        if self._behind[index]:
            # When all that they have in hand has come.
            places -= sum(len(worker.in_flight) for worker in stage.tasked_workers())
            if free <= 0 and stage.fair is not None:
                self._assign_others(stage, stage.fair, now, assignments)
        while queue.count and free > 0:
            if split is None:
                worker, calls = self._choose(stage, places > 0, now)
            else:
                worker, calls = self._choose_with_canary(stage, split, places > 0, now)
            if worker is None:
                stage.held_since = 0.0
                if delay is not None:
                    delay.note_busy(queue.count, now)
                return
            if self.echoes is not None and not self._before[index] and delay is None:
                due_at = self._echo(stage, self.echoes, worker, now)
                if due_at:
                    stage.due_at = due_at
                    stage.held_since = stage.held_since or now
                    return
            if queue.batch_timeout or delay is not None:
                due_at = queue.due_at() if delay is None else self._due_at(index, delay, now)
                if due_at > now:
                    stage.due_at = due_at
                    stage.held_since = stage.held_since or now
                    return
                calls = 1
            tickets = queue.pop_batches(now, calls)
            assignments.setdefault(worker, []).append(worker.in_flight.put(tickets, worker.pid, now))
            if split is not None:
                split.note(worker, len(tickets))
            if delay is not None:
                delay.note_sent(queue.count, now)
            if queue.batch_timeout or stage.batch_delay is not None or stage.held_since:
                _note_delay(stage, tickets[0], now)
            places -= len(tickets)

    def _assign_others(
        self, stage: Stage, queue: FairQueue[Ticket], now: float, assignments: Assignments
    ) -> None:
        """Form batches for idle workers of tasks whose tenants do not wait for a crowded step; see `Gate`."""
        held = self._gate.held() if self._gate is not None else None
        # Of tasks that have costs, only the next one of the queue was asked whether a worker has room for it.
        may_join = stage.places > 0 and stage.pool.step.batch_cost is None
        while held and queue.count:
            worker, _ = self._choose(stage, may_join, now)
            tickets = queue.pop_batch(now, held) if worker is not None else []
            if worker is None or not tickets:
                return
            assignments.setdefault(worker, []).append(worker.in_flight.put(tickets, worker.pid, now))
            if stage.split is not None:
                stage.split.note(worker, len(tickets))
            if stage.held_since:
                _note_delay(stage, tickets[0], now)

    def _choose(self, stage: Stage, may_wait: bool, now: float) -> tuple[WorkerHandle | None, int]:
        """Choose the worker that gets the next batch, and for how many calls of its handler."""
        worker, calls = stage.free_worker(may_wait, now)
        if worker is None and may_wait and stage.queue.is_next_full(now):
            return self._nearly_free_worker(stage, now), 1
        return worker, calls

    def _choose_with_canary(
        self, stage: Stage, split: Split, may_wait: bool, now: float
    ) -> tuple[WorkerHandle | None, int]:
        queue = stage.queue
        if queue.has_alone:  # it may have killed a worker: one that serves decides on it
            return self._choose(stage, may_wait, now)
        batch = queue.next_size(now)
        canary, calls = split.choose(batch, queue.is_next_full(now), may_wait, now)
        if canary is not None and stage.has_room(canary, now):
            return canary, calls
        worker, calls = self._choose(stage, may_wait, now)
        return worker, split.limit(calls, batch)

    def _nearly_free_worker(self, stage: Stage, now: float) -> WorkerHandle | None:
        """Choose a worker that should be free in a moment, for a full batch: it then loses no time between two."""
        if stage.queue.has_alone and stage.pool.step.sends_ahead:
            return None  # it may have killed a worker: it goes to one that has nothing else in hand
        worker = min(stage.pool.ready_workers(), key=_free_at, default=None)
        ready_at = _free_at(worker) - PREFETCH if worker is not None else math.inf
        if ready_at <= now:
            return worker
        stage.due_at = ready_at
        return None

    def _due_at(self, index: int, delay: BatchDelay, now: float) -> float:
        stage = self._stages[index]
        if stage.queue.has_alone:
            return now
        earlier = self._before[index]
        if earlier:
            is_expected = any(
                before.queue.count or any(w.in_flight for w in before.tasked_workers()) for before in earlier
            )
        else:
            is_expected = len(self._arrivals) > 0 or (self.echoes is not None and self.echoes.until(now) > 0)
        return delay.due_at(stage.queue.count, is_expected, stage.share(), now)

    def _echo(self, stage: Stage, echoes: Echoes, worker: WorkerHandle, now: float) -> float:
        """Return until when a batch of the first step waits for the next tasks of API processes; 0 if it does not."""
        queue = stage.queue
        if queue.is_next_full(now) or queue.has_alone or worker.in_flight.pace < SHARE * ECHO:
            return 0.0
        if stage.held_since and now - stage.held_since > ECHO:
            return 0.0
        return echoes.until(now)

    def _free_after(self, index: int) -> int:
        """Count the free places in the fullest queue after a step."""
        behind = self._behind[index]
        if not behind:
            return sys.maxsize
        if index == 0 and self._gate is not None:
            return self._gate.free()
        # A step pauses while one after it has all it may hold; the first queue then fills up and callers wait.
        return self._queue_size - max(stage.queue.count for stage in behind)


def _note_delay(stage: Stage, oldest: Ticket, now: float) -> None:
    """Note for how long a batch that goes now has kept an idle worker waiting."""
    if stage.meter is not None:
        # The tasks for which the wait began may all have been cancelled.
        since = max(stage.held_since, oldest.arrived_at) if stage.held_since else now
        stage.meter.batch_delay.add(now - since)
    stage.held_since = 0.0


def _free_at(worker: WorkerHandle) -> float:
    return worker.in_flight.free_at()
