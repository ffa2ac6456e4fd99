"""Keeps the event loop from sleeping while a worker has tasks in hand: the API process's part of `busy_poll`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sized


class BusyPoll:
    """Has the event loop poll for an answer instead of waiting for it.

    An event loop with a callback for its next turn polls for events and does not wait for them. So it sees the answer
    without a wake-up, and serves everything else as usual.

    Args:
        seconds: How long the event loop polls after tasks were sent; 0: not at all.
        work: What the worker has in hand.

    Attributes:
        seconds: As given.
        is_active: Whether the event loop polls now.
    """

    def __init__(self, seconds: float, work: Sized) -> None:
        self.seconds = seconds
        self.is_active = False
        self._work = work
        self._until = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self._loop = loop

    def detach(self) -> None:
        """Let the event loop sleep."""
        self.is_active = False
        self._loop = None

    def start(self) -> None:
        """Poll for `seconds` from now on, while there is work."""
        self._until = time.monotonic() + self.seconds
        if not self.is_active:
            self._turn(self._loop)

    def _turn(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is not self._loop:  # a loop that had stopped runs again, and another one drives the flow
            return
        self.is_active = bool(self._work) and self._loop is not None and time.monotonic() < self._until
        if self.is_active and self._loop is not None:
            os.sched_yield()  # where cores are short, the worker itself may need this one
            self._loop.call_soon(self._turn, loop)
