"""Reporter: the interface of an object that reports on a running engine in periods."""

from __future__ import annotations

import asyncio
from typing import Protocol

from .statistics import FlowStatistics


class Measured(Protocol):
    """An engine, as a reporter sees it."""

    def statistics(self, state: str) -> FlowStatistics:
        """Return a snapshot.

        Args:
            state: State of the flow.
        """


class Reporter(Protocol):
    """Reports on a running engine in periods, in the event loop that drives the engine."""

    def attach(self, engine: Measured, loop: asyncio.AbstractEventLoop) -> None:
        """Report on an engine, in an event loop and in no other any more.

        Args:
            engine: The engine.
            loop: The event loop that drives it.
        """

    def detach(self) -> None:
        """Stop working in an event loop; the next one follows, or `finish`."""

    async def finish(self) -> None:
        """Make the last report. Does nothing if there was no engine to report on."""
