"""What happens between a signal to stop and the end of the server.

SIGTERM ─▶ /ready says 503, requests are served ─▶ (delay) ─▶ the server's own shutdown ─▶ the lifespan ends
Ctrl-C ──▶ /ready says 503 ─────────────────────────────────▶ the server's own shutdown ─▶ the lifespan ends
again ───▶ the flows stop without waiting for tasks, the server without waiting for clients
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

from ..logger import log

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Drain:
    """Stands before the signal handlers of the server while an application runs.

    A server that stops closes its port first, so whoever asks ``/ready`` is refused a connection and is never told
    503, and a load balancer goes on sending for as long as it takes to notice. The delay is for that time.

    Args:
        delay: Seconds between SIGTERM and the server's own shutdown.
        stop_at_once: Called in the event loop when a second signal comes.

    Attributes:
        is_draining: Whether a signal to stop has come.
    """

    def __init__(self, delay: float, stop_at_once: Callable[[], Awaitable[None]]) -> None:
        self.is_draining = False
        self._delay = delay
        self._stop_at_once = stop_at_once
        self._loop: asyncio.AbstractEventLoop
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = {}
        self._received: set[signal.Signals] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._haste: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Take the place of the handlers; nothing happens in a thread, or where the server handles no SIGTERM."""
        self.is_draining = False
        self._received.clear()
        self._haste = None
        if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGTERM)):
            return
        self._loop = asyncio.get_running_loop()
        handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self._previous = {
            signum: handler
            for signum, handler in handlers.items()
            if callable(handler) and handler is not signal.default_int_handler
        }
        if self._loop.remove_signal_handler(signal.SIGTERM):
            # A handler of the loop cannot be had back to be called later; such servers take SIGINT for the same.
            self._previous[signal.SIGTERM] = _interrupt
        for signum in self._previous:
            signal.signal(signum, self._on_signal)

    def end(self) -> None:
        """Give the handlers back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for signum, handler in self._previous.items():
            # Another than ours belongs to somebody who came later, and who calls ours.
            if signal.getsignal(signum) == self._on_signal:
                signal.signal(signum, handler)
        self._previous.clear()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        # Runs between any two instructions of the main thread, so it only hands over.
        self._loop.call_soon_threadsafe(self._receive, signal.Signals(signum))

    def _receive(self, signum: signal.Signals) -> None:
        is_first = not self._received
        # Not SIGTERM after SIGINT: supervisors pass Ctrl-C on so, to processes that the terminal has told already.
        is_repeated = signum in self._received or (signum == signal.SIGINT and not is_first)
        self._received.add(signum)
        self.is_draining = True
        if is_repeated and self._haste is None:
            log.warning("%s, and not the first signal: stopping at once", signum.name)
            self._haste = asyncio.ensure_future(self._hasten(self._stop_at_once()))
        elif is_first and signum == signal.SIGTERM and self._delay > 0:
            log.info("SIGTERM: not ready any more, and serving for another %g s", self._delay)
            self._timer = self._loop.call_later(self._delay, self._pass_on, signum)
        elif is_first:
            self._pass_on(signum)

    async def _hasten(self, stop: Awaitable[None]) -> None:
        try:
            await stop
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._pass_on(signal.SIGTERM)
            # The signal that uvicorn takes for "at once", whichever it was that came.
            self._pass_on(signal.SIGINT)

    def _pass_on(self, signum: signal.Signals) -> None:
        handler = self._previous.get(signum)
        if handler is None:
            return
        if handler is _interrupt:
            interrupted = signal.signal(signal.SIGINT, self._previous.get(signal.SIGINT, signal.SIG_DFL))
            handler(signum, None)
            signal.signal(signal.SIGINT, interrupted)
        else:
            handler(signum, None)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
