"""Gives the tasks that wait to the workers.

Whatever happens in one turn of the event loop (tasks that arrive, answers, deaths) is followed by one pass over the
steps, which forms batches and writes once to each worker. A task that finds an idle worker and nobody before it does
not wait for that.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time

from ..memory.flow_memory import FlowMemory
from ..workers.handle import WorkerHandle
from ..workers.in_flight import PREFETCH
from .batch_delay import BatchDelay
from .stage import Stage
from .ticket import Ticket


class Scheduler:
    """Forms batches and chooses who gets them.

    Args:
        stages: The steps.
        memory: The shared memory of the flow.
        queue_size: Tasks that may wait for a step, in each level.
    """

    def __init__(self, stages: list[Stage], memory: FlowMemory, queue_size: int) -> None:
        self._stages = stages
        self._arena = memory.arena
        self._ledger = memory.ledger
        self._arrivals = memory.arrivals
        self._queue_size = queue_size
        self._last = len(stages) - 1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_turn: asyncio.Handle | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self.detach()
        self._loop = loop
        self.schedule()

    def detach(self) -> None:
        """Stop working; what waits goes on waiting."""
        self._loop = None
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        for stage in self._stages:
            if stage.timer is not None:
                stage.timer.cancel()
                stage.timer = None

    def schedule(self) -> None:
        """Go over the steps when everything else that happens in this turn of the loop has happened."""
        if self._next_turn is None and self._loop is not None:
            self._next_turn = self._loop.call_soon(self._turn)

    def give(self, ticket: Ticket, now: float) -> bool:
        """Give a task that has just come to an idle worker, if nothing can be gained by waiting.

        A turn of the loop later others could go in the same frame, but that worker would stand idle until then.

        Returns:
            Whether it went; if not, it has to wait for the next turn.
        """
        step = ticket.step
        stage = self._stages[step]
        if not stage.takes_at_once or stage.queue.count or self._free_after(step) <= 0:
            return False
        worker = stage.idle_worker()
        if worker is None:
            return False
        worker.put([ticket], now)
        worker.flush(self._ledger.pop_released(worker.region))
        return True

    def refill(self, worker: WorkerHandle) -> None:
        """Give a worker that stands idle its next batch before the callers of the last one get their turn.

        All they do with their answers, such as sending responses, would be lost time for it.
        """
        queue = self._stages[worker.step].queue
        if not worker.in_flight.calls and queue.count >= queue.batch_size and worker.in_flight.pace > PREFETCH:
            self._feed(worker.step, time.monotonic())

    def _turn(self) -> None:
        self._next_turn = None
        self._arena.collect()
        now = time.monotonic()
        for index in range(len(self._stages) - 1, -1, -1):  # the last step first: it makes room for those before
            self._feed(index, now)

    def _feed(self, index: int, now: float) -> None:
        stage = self._stages[index]
        queue = stage.queue
        if not queue.count:
            return
        delay = stage.batch_delay
        if delay is not None and not delay.is_worthwhile:
            delay = None
        fed: set[WorkerHandle] = set()
        free = room = self._free_after(index)
        if index != self._last:
            room -= sum(len(worker.in_flight) for worker in stage.workers)  # when all that they have in hand has come
        while queue.count and free > 0:
            worker, calls = stage.free_worker(may_wait=room > 0)
            if worker is None and room > 0 and queue.count >= queue.batch_size:
                worker, calls = self._nearly_free_worker(stage, now), 1
            if worker is None:
                if delay is not None:
                    delay.note_busy(queue.count, now)
                break
            if queue.batch_timeout or delay is not None:
                due_at = queue.due_at() if delay is None else self._due_at(index, delay, now)
                if due_at > now:
                    self._wake_at(stage, due_at, now)
                    break
                calls = 1
            batch = queue.take_many(now, calls)
            worker.put(batch, now)
            if delay is not None:
                delay.note_taken(queue.count, now)
            room -= len(batch)
            fed.add(worker)
        for worker in fed:
            worker.flush(self._ledger.pop_released(worker.region))
        if fed:
            stage.waiters.open()

    def _nearly_free_worker(self, stage: Stage, now: float) -> WorkerHandle | None:
        """Choose a worker that should be free in a moment, for a full batch: it then loses no time between two."""
        worker = min(stage.pool.ready_workers(), key=_free_at, default=None)
        ready_at = _free_at(worker) - PREFETCH if worker is not None else math.inf
        if ready_at <= now:
            return worker
        if ready_at < math.inf:
            self._wake_at(stage, ready_at, now)
        return None

    def _due_at(self, index: int, delay: BatchDelay, now: float) -> float:
        stage = self._stages[index]
        if stage.queue.has_alone:
            return now
        if index:
            earlier = self._stages[:index]
            is_expected = any(before.queue.count or any(w.in_flight for w in before.workers) for before in earlier)
        else:
            is_expected = len(self._arrivals) > 0
        return delay.due_at(stage.queue.count, is_expected, stage.share(), now)

    def _free_after(self, index: int) -> int:
        """Count the free places in the fullest queue after a step."""
        if index == self._last:
            return sys.maxsize
        # A step rests while one after it has all it may hold; the first queue then fills up and callers feel it.
        return self._queue_size - max(stage.queue.count for stage in self._stages[index + 1 :])

    def _wake_at(self, stage: Stage, due_at: float, now: float) -> None:
        assert self._loop is not None
        if stage.timer is not None:
            stage.timer.cancel()
        stage.timer = self._loop.call_later(due_at - now, self.schedule)


def _free_at(worker: WorkerHandle) -> float:
    return worker.in_flight.free_at()
