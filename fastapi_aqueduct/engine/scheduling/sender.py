"""Runs the scheduler in an event loop, and sends what it assigns.

Whatever happens in one turn of the event loop (tasks that arrive, answers, deaths) is followed by one pass of the
scheduler over the steps, which writes once to each worker.
"""

from __future__ import annotations

import asyncio
import math
import time

from ..memory.flow_memory import FlowMemory
from ..workers.handle import WorkerHandle
from .scheduler import Assignments, Scheduler
from .spans import Spans
from .stage import Stage
from .ticket import Ticket


class Sender:
    """Sends batches to workers.

    Args:
        scheduler: Decides which worker gets which tasks.
        stages: The steps.
        memory: The shared memory of the flow.
        spans: The spans of the tasks that are traced.
    """

    def __init__(self, scheduler: Scheduler, stages: list[Stage], memory: FlowMemory, spans: Spans) -> None:
        self._scheduler = scheduler
        self._stages = stages
        self._arena = memory.arena
        self._ledger = memory.ledger
        self._spans = spans
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self.detach()
        self._loop = loop
        self.schedule()

    def detach(self) -> None:
        """Stop working; tasks that wait go on waiting."""
        self._loop = None
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        self._set_timer(math.inf, 0.0)

    def schedule(self) -> None:
        """Run the scheduler when everything else that happens in this turn of the loop has happened."""
        if self._next_turn is None and self._loop is not None:
            self._next_turn = self._loop.call_soon(self._turn)

    def send_at_once(self, ticket: Ticket, now: float) -> bool:
        """Send a task that has just arrived, if an idle worker should get it; see `Scheduler.assign_at_once`.

        Returns:
            Whether it was sent; if not, it has to wait in the queue.
        """
        assignments = self._scheduler.assign_at_once(ticket, now)
        for worker, batches in assignments.items():
            if self._spans.open:
                self._spans.note_sent(worker, batches)
            worker.send_tasks(batches, self._ledger.pop_released(worker.region))
            stage = self._stages[worker.step]
            if stage.meter is not None:
                stage.meter.queue_wait.values.append(0.0)
            if stage.copier is not None:
                stage.copier.copy(batches, now)
        return bool(assignments)

    def refill(self, worker: WorkerHandle) -> None:
        """Send an idle worker its next batch at once, if it should get one; see `Scheduler.refill`."""
        now = time.monotonic()
        self._send(self._scheduler.refill(worker, now), now)

    def _turn(self) -> None:
        self._next_turn = None
        self._arena.collect()
        now = time.monotonic()
        self._send(self._scheduler.assign(now), now)
        due_at = self._scheduler.due_at()
        if due_at != self._timer_at:
            self._set_timer(due_at, now)

    def _send(self, assignments: Assignments, now: float) -> None:
        for worker, batches in assignments.items():
            if self._spans.open:
                self._spans.note_sent(worker, batches)
            worker.send_tasks(batches, self._ledger.pop_released(worker.region))
            stage = self._stages[worker.step]
            if stage.meter is not None:
                for tickets, *_ in batches:
                    stage.meter.note_sent(tickets, now)
            if stage.copier is not None:
                stage.copier.copy(batches, now)
            if stage.waiters.contenders:
                stage.waiters.open()

    def _set_timer(self, due_at: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due_at
        if due_at < math.inf and self._loop is not None:
            self._timer = self._loop.call_later(due_at - now, self._on_due)

    def _on_due(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self.schedule()
