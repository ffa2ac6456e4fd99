"""The batch delay of a step whose batches have keys: each lane waits for its own tasks. Has no clock."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from .batch_delay import BatchDelay
from .lane_queue import Lane, LaneQueue

MOST_GONE = 64
"""Keys without tasks that are remembered, so that it is known how long after a batch the next task of its key came."""


class LaneDelay(BatchDelay):
    """Decides for each lane when a batch that is not full goes to a worker that is idle.

    All lanes learn together, since a key may never come again. What one is waiting for stays its own.

    Args:
        batch_size: The most tasks in a batch.
        queue: The lanes.
    """

    def __init__(self, batch_size: int, queue: LaneQueue[Any]) -> None:
        super().__init__(batch_size)
        self._queue = queue
        self._gone: OrderedDict[bytes, tuple[BatchDelay, float]] = OrderedDict()

    def note_busy(self, count: int, now: float) -> None:
        """Note that tasks wait and no worker is idle."""
        for lane in self._queue.unnoted:
            self._delay(lane).note_busy(lane.count, now)
        self._queue.unnoted.clear()

    def note_sent(self, left: int, now: float) -> None:
        """Note that a batch was sent."""
        lane = self._queue.popped
        if lane is None:  # a task that goes alone
            return
        delay = self._delay(lane)
        delay.note_sent(lane.count, now)
        if not lane.count:
            self._gone[lane.key] = delay, now
            self._forget(now)

    def due_at(self, count: int, is_expected: bool, share: float, now: float) -> float:
        """Return when the next batch should go to an idle worker if no task arrives before; the past means now."""
        for lane in list(self._queue.changed):
            self._queue.hold(lane, self._delay(lane).due_at(lane.count, is_expected, share, now))
        return self._queue.due_at()

    def _delay(self, lane: Lane[Any]) -> BatchDelay:
        if lane.delay is None:
            delay, _ = self._gone.pop(lane.key, (None, 0.0))
            lane.delay = delay or self.fork()
        return lane.delay

    def _forget(self, now: float) -> None:
        """Forget keys whose next task would have come too late to be waited for."""
        while self._gone:
            delay, since = next(iter(self._gone.values()))
            if len(self._gone) <= MOST_GONE and since + self.longest_wait >= now:
                break
            self._gone.popitem(last=False)
            delay.give_up()
