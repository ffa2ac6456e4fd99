"""Whether an event loop that does not run has ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

REST = 0.1
"""Seconds after which a loop in another thread that does not run counts as ended, though it is not closed."""


class LoopEnd:
    """Tells whether an event loop that does not run has ended, or is between two runs.

    `asyncio.run` runs its loop four times: for the main coroutine, the cancelled tasks, the asynchronous generators and
    the executor. Another thread that took over what the loop drives in one of the gaps would do so while it runs again.
    """

    def __init__(self) -> None:
        self._probe: _Probe | None = None

    def has_come(self, loop: asyncio.AbstractEventLoop, thread: int) -> bool:
        """Tell whether a loop has ended; where that is not known yet, ask again within `REST` seconds.

        Args:
            loop: The loop.
            thread: The identifier of the thread in which it runs.
        """
        if loop.is_running():
            return False
        if loop.is_closed() or thread == threading.get_ident():
            return True
        probe = self._probe
        if probe is None or probe.loop is not loop or probe.was_answered:
            self._probe = _Probe(loop)
            return loop.is_closed()
        return time.monotonic() >= probe.sent_at + REST


class _Probe:
    """A callback for an event loop, by which it is seen that it has run."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.sent_at = time.monotonic()
        self.was_answered = False
        with contextlib.suppress(RuntimeError):  # closed in this instant
            loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self.was_answered = True
