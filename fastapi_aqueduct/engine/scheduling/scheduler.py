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

from ..memory.ledger import Ledger
from ..workers.handle import LEAD, WorkerLink
from .batch_delay import Patience
from .stage import Rota, StepDesk
from .ticket import Record


class Feeder:
    """Forms batches and chooses who gets them.

    Args:
        desks: The steps.
        ledger: Who holds which block.
        queue_size: Tasks that may wait for a step, in each level.
    """

    def __init__(self, desks: list[StepDesk], ledger: Ledger, queue_size: int) -> None:
        self._desks = desks
        self._ledger = ledger
        self._queue_size = queue_size
        self._last = len(desks) - 1
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
        for desk in self._desks:
            if desk.timer is not None:
                desk.timer.cancel()
                desk.timer = None

    def schedule(self) -> None:
        """Go over the steps when everything else that happens in this turn of the loop has happened."""
        if self._next_turn is None and self._loop is not None:
            self._next_turn = self._loop.call_soon(self._turn)

    def give(self, record: Record, now: float) -> WorkerLink | None:
        """Give a task that has just come to an idle worker, if nothing can be gained by waiting.

        A turn of the loop later others could go in the same frame, but that worker would stand idle until then.

        Returns:
            The worker; None when the task has to wait for the next turn.
        """
        step = record.step
        desk = self._desks[step]
        if not desk.takes_at_once or desk.queue.count or self._free_after(step) <= 0:
            return None
        link = desk.idle_link(now)
        if link is not None:
            link.put([record], now)
            link.flush(self._ledger.take_released(link.region))
        return link

    def refill(self, link: WorkerLink) -> None:
        """Give a worker that stands idle its next batch before the callers of the last one get their turn.

        All they do with their answers, such as sending responses, would be lost time for it.
        """
        queue = self._desks[link.step].queue
        if not link.calls and queue.count >= queue.batch_size and link.pace > LEAD:
            self._feed(link.step, time.monotonic())

    def _turn(self) -> None:
        self._next_turn = None
        self._ledger.arena.collect()
        now = time.monotonic()
        for index in range(len(self._desks) - 1, -1, -1):  # the last step first: it makes room for those before
            self._feed(index, now)

    def _feed(self, index: int, now: float) -> None:
        desk = self._desks[index]
        queue = desk.queue
        if not queue.count:
            return
        patience = desk.patience
        if patience is not None and not patience.is_worthwhile:
            patience = None
        fed: set[WorkerLink] = set()
        free = room = self._free_after(index)
        if index != self._last:
            room -= sum(link.in_flight for link in desk.links)  # when all that they have in hand has come
        on_duty = desk.on_duty(now)
        rota = Rota(on_duty)
        while queue.count and free > 0:
            link, calls = desk.free_link(rota, may_wait=room > 0)
            if link is None and room > 0 and queue.count >= queue.batch_size:
                link, calls = self._nearly_free_link(desk, now), 1
            if link is None:
                if len(on_duty) < len(desk.links):
                    self._wake_at(desk, now + LEAD, now)  # if they are stuck by then, others take their place
                if patience is not None:
                    patience.note_busy(queue.count, now)
                break
            if queue.batch_timeout or patience is not None:
                due_at = queue.due_at() if patience is None else self._due_at(index, patience, now)
                if due_at > now:
                    self._wake_at(desk, due_at, now)
                    break
                calls = 1
            batch = queue.take_many(now, calls)
            link.put(batch, now)
            if patience is not None:
                patience.note_taken(queue.count, now)
            room -= len(batch)
            fed.add(link)
        for link in fed:
            link.flush(self._ledger.take_released(link.region))
        if fed:
            desk.entry.open()

    def _nearly_free_link(self, desk: StepDesk, now: float) -> WorkerLink | None:
        """Choose a worker that should be free in a moment, for a full batch: it then loses no time between two."""
        link = min(desk.links, key=WorkerLink.free_at, default=None)
        ready_at = link.free_at() - LEAD if link is not None else math.inf
        if ready_at <= now:
            return link
        if ready_at < math.inf:
            self._wake_at(desk, ready_at, now)
        return None

    def _due_at(self, index: int, patience: Patience, now: float) -> float:
        desk = self._desks[index]
        if desk.queue.has_alone:
            return now
        if index:
            earlier = self._desks[:index]
            is_expected = any(before.queue.count or any(link.calls for link in before.links) for before in earlier)
        else:
            is_expected = len(self._ledger.arrivals) > 0
        return patience.due_at(desk.queue.count, is_expected, desk.share(), now)

    def _free_after(self, index: int) -> int:
        """Count the free places in the fullest queue after a step."""
        if index == self._last:
            return sys.maxsize
        # A step rests while one after it has all it may hold; the first queue then fills up and callers feel it.
        return self._queue_size - max(desk.queue.count for desk in self._desks[index + 1 :])

    def _wake_at(self, desk: StepDesk, due_at: float, now: float) -> None:
        assert self._loop is not None
        if desk.timer is not None:
            desk.timer.cancel()
        desk.timer = self._loop.call_later(due_at - now, self.schedule)
