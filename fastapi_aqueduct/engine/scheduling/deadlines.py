"""Deadlines: calls a function for each item whose deadline has passed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from ..system.fair_timer import PAUSE

RESOLUTION = 0.001
"""Seconds by which a deadline may be noticed late: one timer finds those that pass together."""

PERIODS = 64
"""Periods in a second. Items whose deadlines lie in the same period are kept together."""

FEWEST = 16
"""Periods without an item that are kept before it is worth looking for them: each may hold 2 KiB."""

TICK = 0.5
"""Seconds between two looks at the clock while there are deadlines. Only the end of a pause of the process can be seen,
so this is also the uncertainty of its length."""


class Expiring(Protocol):
    """What has a deadline.

    Attributes:
        id: Its number.
        deadline: On the clock of ``time.monotonic``.
        period: The items whose deadlines lie in the same period; for `Deadlines` alone.
    """

    id: int
    deadline: float
    period: dict[int, Any]

    def postpone(self, seconds: float) -> None:
        """Move the deadline by a pause of the process."""


T = TypeVar("T", bound=Expiring)


class Deadlines(Generic[T]):
    """Calls `on_expired(item)` for each item that is still present at its deadline.

    Nearly all items are removed long before. So adding and removing one costs a dictionary entry each, and a timer is
    set for the first of all deadlines only; a timer of the event loop for each item costs more than everything else
    that is done for a task.

    A pause of the process (a stop signal, a debugger, a blocked event loop) is not charged: the timer fires late then,
    and all deadlines move by the length of the pause. The loop reads what has arrived before one of them passes.

    Args:
        on_expired: Called with an item, at most `RESOLUTION` after its deadline; the item is removed then.
    """

    def __init__(self, on_expired: Callable[[T], None]) -> None:
        self._on_expired = on_expired
        self._periods: dict[int, dict[int, T]] = {}
        self._most = FEWEST
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._loop: asyncio.AbstractEventLoop

    def add(self, item: T, loop: asyncio.AbstractEventLoop) -> None:
        """Add an item."""
        deadline = item.deadline
        period = self._periods.get(int(deadline * PERIODS))
        if period is None:
            period = self._open(int(deadline * PERIODS))
        period[item.id] = item
        item.period = period
        if deadline < self._timer_at:
            self._set_timer(deadline, loop)

    def remove(self, item: T) -> None:
        """Remove an item, if it is present."""
        item.period.pop(item.id, None)

    def move(self, item: T, deadline: float) -> None:
        """Change the deadline of a watched item."""
        item.period.pop(item.id, None)
        item.deadline = deadline
        self.add(item, self._loop)

    def clear(self) -> None:
        """Remove all items."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = math.inf
        self._periods.clear()

    def _open(self, number: int) -> dict[int, T]:
        if len(self._periods) >= self._most:
            self._periods = {number: period for number, period in self._periods.items() if period}
            self._most = FEWEST + 2 * len(self._periods)
        period = self._periods[number] = {}
        return period

    def forgive(self, now: float) -> bool:
        """Move all deadlines if the process has paused, which the timer has not seen yet.

        Args:
            now: The time on the clock of ``time.monotonic``.

        Returns:
            Whether it had paused.
        """
        if self._timer is None or now <= self._timer_at + PAUSE:
            return False
        loop, pause = self._loop, now - self._timer_at + TICK
        items = [item for period in self._periods.values() for item in period.values()]
        self.clear()
        for item in items:
            item.postpone(pause)
            self.add(item, loop)
        return True

    def _set_timer(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = time.monotonic()
        self._loop = loop
        self._timer_at = max(now, min(deadline, now + TICK))
        self._timer = loop.call_later(self._timer_at - now + RESOLUTION / 2, self._expire)

    def _expire(self) -> None:
        now = time.monotonic()
        if self.forgive(now):
            return
        self._timer = None
        self._timer_at = math.inf
        try:
            self._call_expired(now)
        finally:
            self._watch_next()  # also when a call has raised: the other items have deadlines, too

    def _call_expired(self, now: float) -> None:
        for number in sorted(self._periods):
            if number > now * PERIODS:
                return
            period = self._periods.get(number, {})
            for item in [item for item in period.values() if item.deadline <= now]:
                if period.pop(item.id, None) is not None:  # it may have been removed by a call before
                    self._on_expired(item)

    def _watch_next(self) -> None:
        for number in sorted(self._periods):
            period = self._periods[number]
            if period:
                self._set_timer(min(item.deadline for item in period.values()), self._loop)
                return
            del self._periods[number]
