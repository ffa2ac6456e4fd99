"""Keeps the event loop from falling asleep over work that takes less time than falling asleep."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sized

BRIEF = 0.0002
"""Seconds of work whose answer the event loop had better wait for awake, if nobody else has anything in the flow. To
fall asleep costs it as much, in the wake-up and in caches that have gone cold meanwhile; so this costs twice the
optimum at worst, whenever the answer comes (Karlin et al., "Empirical studies of competitive spinning for a
shared-memory multiprocessor", SOSP 1991). Only the event loop does so by itself: a worker that did, too, would gain a
little on an idle machine, but where others want the cores both would be taken for what they are not, processes that
compute, and wait for milliseconds to get one back."""

AWAKE = 2 * BRIEF
"""Seconds for which it stays awake at most: such work, and the way there and back."""


class Awake:
    """Has the event loop turn without sleeping while a worker has something in hand.

    Args:
        work: What the worker has in hand.

    Attributes:
        is_turning: Whether it does so now.
    """

    def __init__(self, work: Sized) -> None:
        self._work = work
        self._until = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_turning = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self._loop = loop

    def detach(self) -> None:
        """Let the event loop sleep."""
        self.is_turning = False
        self._loop = None

    def stay(self, seconds: float) -> None:
        """Keep the event loop awake for so long while there is work."""
        self._until = max(self._until, time.monotonic() + seconds)
        if not self.is_turning:
            self._turn(self._loop)

    def _turn(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is not self._loop:  # one that had stopped runs again, and drives the flow no more
            return
        # An event loop that has something to call in its next turn asks for events and does not wait for them. So it
        # sees the answer without being woken, and everybody else is served as always.
        self.is_turning = bool(self._work) and self._loop is not None and time.monotonic() < self._until
        if self.is_turning and self._loop is not None:
            os.sched_yield()  # where cores are short it may be the worker itself that wants this one
            self._loop.call_soon(self._turn, loop)
