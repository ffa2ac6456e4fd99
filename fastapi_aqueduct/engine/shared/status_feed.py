"""Pushes the statistics of a pipeline to its API processes when something has changed."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from ..memory.layout import Ref
from ..statistics import FlowStatistics
from ..wire.frames import Kind
from .status import GuestReport, Status, address, with_reports

Send = Callable[[Kind, bytes], None]
"""Sends a frame."""


class Guest(Protocol):
    """An API process that is connected.

    Attributes:
        number: Its number, from 1; no other one gets it again.
    """

    @property
    def number(self) -> int:
        """As above."""

    def post(self, kind: Kind, payload: bytes) -> None:
        """Send it a frame."""

    def lend(self, blocks: Iterable[Ref]) -> None:
        """Hold blocks for it until it returns them."""

    def is_behind(self) -> bool:
        """Tell whether it does not read, and more waits than the socket holds."""

    def is_swamped(self) -> bool:
        """Tell whether so much waits for it that log records should be dropped."""


PERIOD = 0.25
"""Seconds between two pushes while something changes: one costs a few hundred microseconds."""

IDLE_PERIOD = 0.1
"""The same on average when the last task in flight ends: a caller that is alone reads what its task has changed."""

BURST = 0.5
"""Seconds of pushes that may come sooner after such an end, before they count against the average."""

REST_PERIOD = 5.0
"""The same while nothing changes but what time itself changes, such as the busy share and the memory kept warm."""


class StatusFeed:
    """Knows the API processes of a pipeline, and what each of them counts itself.

    Args:
        read: Returns the statistics of the pipeline process.
        is_idle: Tells whether no task is in flight.
        is_changing: Tells whether time alone changes them now: workers are on their way.
    """

    def __init__(
        self, read: Callable[[], FlowStatistics], is_idle: Callable[[], bool], is_changing: Callable[[], bool]
    ) -> None:
        self._read = read
        self._is_idle = is_idle
        self._is_changing = is_changing
        self._pushed_at = self._paid_until = -math.inf
        self._guests: dict[int, Guest] = {}
        self._reports: dict[int, GuestReport] = {}
        self._gone: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_resting = False
        self._has_news = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self._loop = loop

    def detach(self) -> None:
        """Push nothing any more."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def first(self, number: int) -> bytes:
        """Return the payload of a frame of kind STATUS for an API process that is about to join.

        Args:
            number: Its number.
        """
        return address(number, self._status().pack())

    def join(self, guest: Guest) -> None:
        """Push to one more API process."""
        self._reports[guest.number] = GuestReport()
        self._guests[guest.number] = guest
        self.note()

    def leave(self, number: int) -> None:
        """Forget an API process that is gone, but not what it has refused."""
        self._guests.pop(number, None)
        report = self._reports.pop(number, None)
        if report is not None:
            self._gone.update(report.refusals)
        if self._guests:
            self.note()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_report(self, number: int, payload: bytes) -> None:
        """Accept what an API process counts.

        Raises:
            ProtocolError: It is no report.
        """
        if number in self._reports:
            self._reports[number] = GuestReport.unpack(payload)
            self.note()

    def note(self) -> None:
        """Note that something has changed. It is pushed soon; at once if the last push was long ago.

        Before answers are sent: a caller that has its answer then finds it counted.
        """
        self._has_news = True
        if not self._guests:
            return
        now = time.monotonic()
        if now - self._pushed_at >= PERIOD:
            self._push()
        elif self._paid_until - now < BURST and self._is_idle():
            self._paid_until = max(self._paid_until, now) + IDLE_PERIOD
            self._push()
        else:
            self.note_soon()

    def note_soon(self) -> None:
        """Note that something changes, which is pushed when all that follows from it is decided."""
        self._has_news = True
        if self._timer is None or self._is_resting:
            self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop is not None and self._guests:
            self._is_resting = not self._has_news and self._is_idle() and not self._is_changing()
            self._timer = self._loop.call_later(REST_PERIOD if self._is_resting else PERIOD, self._push)

    def _push(self) -> None:
        self._has_news = False
        self._pushed_at = time.monotonic()
        status = self._status().pack()
        for guest in list(self._guests.values()):
            if guest.is_behind():  # one that hangs gets only the newest when it reads again
                self._has_news = True
            else:
                guest.post(Kind.STATUS, address(guest.number, status))
        self._wait()

    def _status(self) -> Status:
        return Status(with_reports(self._read(), [GuestReport(refusals=self._gone)]), dict(self._reports))
