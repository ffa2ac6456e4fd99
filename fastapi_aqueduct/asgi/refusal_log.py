"""RefusalLog: logs refused requests, in few lines also under overload."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..logger import log

INTERVAL = 10.0
"""Seconds between two lines for the same reason."""


class RefusalLog:
    """Warns of the first refusal for a reason at once, and then, once in each interval, of how many more there were.

    The others are logged as INFO. Without an event loop, the number of the last interval is logged with the next
    refusal, or by `close`.

    Args:
        interval: Seconds between two lines for the same reason.
        now: The clock.
    """

    def __init__(self, interval: float = INTERVAL, now: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._now = now
        self._series: dict[tuple[str, str], _Series] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def note(self, route: str, reason: str, line: str) -> None:
        """Log a refusal.

        Args:
            route: The route, such as ``"POST /ocr"``.
            reason: The reason; one word, such as ``"queue_full"``.
            line: What is logged.
        """
        self.settle()
        series = self._series.get((route, reason))
        if series is None:
            self._series[route, reason] = _Series(self._now() + self._interval)
            log.warning("%s", line)
        else:
            series.more += 1
            series.line = line
            log.info("%s", line)
        self._set_timer()

    def settle(self) -> None:
        """Log the numbers of the intervals that have ended."""
        now = self._now()
        for key, series in list(self._series.items()):
            if now < series.end:
                continue
            if series.more:
                self._log_number(key, series, self._interval)
                series.more = 0
                series.end = now + self._interval
            else:
                del self._series[key]

    def close(self) -> None:
        """Log the numbers of the intervals that have not ended; the next refusal is a first one again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None
        self.settle()
        now = self._now()
        for key, series in self._series.items():
            if series.more:
                self._log_number(key, series, now - (series.end - self._interval))
        self._series.clear()

    def _log_number(self, key: tuple[str, str], series: _Series, seconds: float) -> None:
        route, reason = key
        log.warning("%s: %d more in %.3g s (%s), at last: %s", route, series.more, seconds, reason, series.line)

    def _set_timer(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # this thread has no event loop
            return
        # A loop that ended without `close` has taken its timer along.
        if self._series and (self._timer is None or self._loop is not loop):
            first_end = min(series.end for series in self._series.values())
            self._timer = loop.call_later(max(0.0, first_end - self._now()), self._on_timer)
            self._loop = loop

    def _on_timer(self) -> None:
        self._timer = None
        self.settle()
        self._set_timer()


class _Series:
    """The refusals for one reason.

    Args:
        end: When the present interval ends, by the clock of the log.

    Attributes:
        end: As given, moved with each interval.
        more: Refusals since the last line.
        line: The line of the last one.
    """

    def __init__(self, end: float) -> None:
        self.end = end
        self.more = 0
        self.line = ""
