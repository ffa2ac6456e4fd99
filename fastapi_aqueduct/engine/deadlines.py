"""Finds the tasks whose time is over."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable

from .record import Record

RESOLUTION = 0.001
"""Seconds. Tasks that end within the same tick share one entry, so a timer is set seldom and cancelled never: an
event loop's own timer for each task costs more than the rest of its bookkeeping."""


class Deadlines:
    """Calls a function for every task that is still here when its deadline passes.

    Args:
        on_expired: Gets the task, at most `RESOLUTION` after its deadline.
    """

    def __init__(self, on_expired: Callable[[Record], None]) -> None:
        self._on_expired = on_expired
        self._ticks: dict[int, dict[int, Record]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    def add(self, record: Record, loop: asyncio.AbstractEventLoop) -> None:
        """Watch a task."""
        tick = record.tick = int(record.deadline / RESOLUTION) + 1
        records = self._ticks.get(tick)
        if records is not None:
            records[record.id] = record
            return
        self._ticks[tick] = {record.id: record}
        heapq.heappush(self._order, tick)
        if self._timer is None or tick < self._timer_tick:
            self._set_timer(tick, loop)

    def remove(self, record: Record) -> None:
        """Forget a task that was settled."""
        records = self._ticks.get(record.tick)
        if records is not None and records.pop(record.id, None) is not None and not records:
            del self._ticks[record.tick]

    def clear(self) -> None:
        """Forget all tasks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ticks.clear()
        self._order.clear()

    def _set_timer(self, tick: int, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_tick = tick
        self._timer = loop.call_later(max(0.0, tick * RESOLUTION - time.monotonic()), self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = time.monotonic()
        while self._order and self._order[0] * RESOLUTION <= now:
            for record in self._ticks.pop(heapq.heappop(self._order), {}).values():
                self._on_expired(record)
        while self._order and self._order[0] not in self._ticks:
            heapq.heappop(self._order)
        if self._order and self._timer is None:
            self._set_timer(self._order[0], loop)

