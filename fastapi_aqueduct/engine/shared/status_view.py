"""The statistics of a pipeline as an API process shows them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from ..options import EngineOptions
from ..statistics import FlowStatistics, statistics_at_rest
from ..system.process_memory import default_memory_limit
from ..wire.frames import Kind
from .status import GuestReport, Status, addressee
from .status_feed import Send

REPORT_PERIOD = 0.5
"""Seconds between two looks at what this process counts itself; it is sent when it has changed."""


class StatusView:
    """Keeps the last status, and reports what this process counts.

    What this process refuses is shown at once, and counts once: where it is reported, it is the same number.

    Args:
        options: What the flow declares.
        count: Returns what this process counts itself, beside what it refuses.
    """

    def __init__(self, options: EngineOptions, count: Callable[[], GuestReport]) -> None:
        self._options = options
        self._count = count
        self._number = 0
        self._status: Status | None = None
        self._silent_for: Callable[[], float] = lambda: 0.0
        self._send: Send | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent = GuestReport()

    def begin(self, send: Send, silent_for: Callable[[], float]) -> None:
        """Report to a pipeline process to which this one is connected now.

        Args:
            send: Sends it a frame.
            silent_for: Returns for how long it has given no sign of life; 0 while that may be normal.
        """
        self._send, self._silent_for = send, silent_for
        self._sent = GuestReport()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self.detach()
        self._loop = loop
        self._timer = loop.call_later(REPORT_PERIOD, self._look)

    def detach(self) -> None:
        """Leave the event loop."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None

    def end(self) -> None:
        """Know nothing any more: the connection has ended."""
        # What was told to that process has gone with it, or stays there.
        self._options.refusals.told.update(self._sent.refusals)
        self._sent = GuestReport()
        self._send = self._status = None
        self._silent_for = lambda: 0.0

    def on_status(self, payload: bytes) -> None:
        """Keep a status.

        Raises:
            ProtocolError: It is none.
        """
        number, packed = addressee(payload)
        self._number, self._status = number, Status.unpack(packed)

    def statistics(self, state: str) -> FlowStatistics:
        """Return the statistics of the flow over all its processes.

        Args:
            state: The state of the flow in this process.
        """
        status = self._status
        if status is None:
            options = self._options
            steps = {name: step.nprocs for name, step in options.steps}
            limit = options.memory_limit or default_memory_limit()
            return statistics_at_rest(options.name, state, steps, limit, options.refusals.by_reason())
        statistics = replace(status.seen_by(self._number, self._report()), state=state)
        silent_for = self._silent_for()
        if not silent_for:
            return statistics
        is_given_up = silent_for >= self._options.timing.give_up_after
        steps_now = tuple([replace(step, is_given_up=step.is_given_up or is_given_up) for step in statistics.steps])
        return replace(statistics, silent_for=silent_for, steps=steps_now)

    @property
    def is_eldest(self) -> bool:
        """Whether no other API process has been connected for longer: one of them exports what all have in common."""
        status = self._status
        return status is None or self._number <= min(status.reports, default=self._number)

    def _report(self) -> GuestReport:
        refusals = Counter(self._options.refusals.by_reason())
        refusals.subtract(self._options.refusals.told)
        return replace(self._count(), refusals=dict(+refusals))

    def _look(self) -> None:
        assert self._loop is not None
        self._timer = self._loop.call_later(REPORT_PERIOD, self._look)
        if self._send is None:
            return
        report = self._report()
        if report != self._sent:
            self._sent = report
            self._send(Kind.STATUS, report.pack())
