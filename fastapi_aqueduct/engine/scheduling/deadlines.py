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

SPANS = 64
"""Spans in a second. Deadlines that lie in the same span are kept together."""

FEWEST = 16
"""Spans without an item that are kept before it is worth looking for them: each may hold 2 KiB."""


TICK = 0.5
"""Seconds between two looks at the clock while there are deadlines. Only the end of a pause of the process can be seen,
so this is also the uncertainty of its length."""


class Expiring(Protocol):
    """What has a deadline.

    Attributes:
        id: Its number.
        deadline: On the clock of ``time.monotonic``.
        span: Where it is noted; for `Deadlines` alone.
    """

    id: int
    deadline: float
    span: dict[int, Any]

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
        self._spans: dict[int, dict[int, T]] = {}
        self._most = FEWEST
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._loop: asyncio.AbstractEventLoop

    def add(self, item: T, loop: asyncio.AbstractEventLoop) -> None:
        """Add an item."""
        deadline = item.deadline
        span = self._spans.get(int(deadline * SPANS))
        if span is None:
            span = self._open(int(deadline * SPANS))
        span[item.id] = item
        item.span = span
        if deadline < self._timer_at:
            self._set_timer(deadline, loop)

    def remove(self, item: T) -> None:
        """Remove an item, if it is present."""
        item.span.pop(item.id, None)

    def move(self, item: T, deadline: float) -> None:
        """Change the deadline of a watched item."""
        item.span.pop(item.id, None)
        item.deadline = deadline
        self.add(item, self._loop)

    def clear(self) -> None:
        """Remove all items."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = math.inf
        self._spans.clear()

    def _open(self, number: int) -> dict[int, T]:
        if len(self._spans) >= self._most:
            self._spans = {number: span for number, span in self._spans.items() if span}
            self._most = FEWEST + 2 * len(self._spans)
        span = self._spans[number] = {}
        return span

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
        items = [item for span in self._spans.values() for item in span.values()]
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
        for number in sorted(self._spans):
            if number > now * SPANS:
                return
            span = self._spans.get(number, {})
            for item in [item for item in span.values() if item.deadline <= now]:
                if span.pop(item.id, None) is not None:  # it may have been removed by a call before
                    self._on_expired(item)

    def _watch_next(self) -> None:
        for number in sorted(self._spans):
            span = self._spans[number]
            if span:
                self._set_timer(min(item.deadline for item in span.values()), self._loop)
                return
            del self._spans[number]
