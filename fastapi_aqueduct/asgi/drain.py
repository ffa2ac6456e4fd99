"""Draining: from a signal to stop until the server ends.

SIGTERM ─▶ /ready responds 503, requests are served ─▶ (delay) ─▶ the server's own shutdown ─▶ the lifespan ends
                                                                  (stop_timeout) ─▶ streams end
Ctrl-C ──▶ /ready responds 503, streams end ────────────────────▶ the server's own shutdown ─▶ the lifespan ends
again ───▶ the flows stop without waiting for tasks, the server without waiting for clients

Streams end here and not with the lifespan: uvicorn waits for open responses without limit before it ends its lifespan,
and a stream can be endless.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..logger import log
from . import gunicorn
from .flow_set import FlowSet
from .loop_signals import LoopSignals

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Drain:
    """Handles the signals to stop before the handlers of the server, while an application runs.

    A server that stops closes its port first, so a request for ``/ready`` fails to connect instead of getting 503, and
    a load balancer sends requests until it notices. The delay covers that time.

    Args:
        flows: The flows of the application; a signal ends their streams, a second one stops them at once.
        end_page: Ends the responses of the status page, which are endless and answer no task.

    Attributes:
        is_draining: Whether a signal to stop has come.
    """

    def __init__(self, flows: FlowSet, end_page: Callable[[], None] = lambda: None) -> None:
        self.is_draining = False
        self._delay = 0.0
        self._flows = flows
        self._end_page = end_page
        self._loop: asyncio.AbstractEventLoop
        self._loop_signals: LoopSignals | None = None
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = {}
        self._received: set[signal.Signals] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stream_timers: list[asyncio.TimerHandle] = []
        self._abort: asyncio.Task[None] | None = None

    @property
    def is_installed(self) -> bool:
        """Whether signals to stop are handled here."""
        return bool(self._previous)

    def install(self, delay: float) -> None:
        """Replace the handlers. Does nothing outside the main thread, or where the server handles no SIGTERM.

        Args:
            delay: Seconds between SIGTERM and the server's own shutdown.
        """
        self.is_draining = False
        self._delay = delay
        self._received.clear()
        self._abort = None
        if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGTERM)):
            return
        self._loop = asyncio.get_running_loop()
        handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self._previous = {
            signum: handler
            for signum, handler in handlers.items()
            if callable(handler) and handler is not signal.default_int_handler
        }
        if gunicorn.is_server():
            # Its event loop runs once, so nothing replaces the wakeup descriptor; that of granian runs twice.
            self._loop_signals = LoopSignals(self._loop, self._previous.keys())
            self._loop_signals.install()
        elif self._loop.remove_signal_handler(signal.SIGTERM):
            # asyncio gives no access to a handler of the loop. Other servers that use one treat SIGINT the same way.
            self._previous[signal.SIGTERM] = _interrupt
        for signum in self._previous:
            signal.signal(signum, self._on_signal)

    def restore(self) -> None:
        """Restore the handlers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for timer in self._stream_timers:
            timer.cancel()
        self._stream_timers.clear()
        for signum, handler in self._previous.items():
            # Another handler was installed later, and calls this one.
            if signal.getsignal(signum) == self._on_signal:
                signal.signal(signum, handler)
        if self._loop_signals is not None:
            self._loop_signals.restore()
            self._loop_signals = None
        self._previous.clear()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        # Runs between any two instructions of the main thread, so it leaves the work to the event loop.
        self._loop.call_soon_threadsafe(self._receive, signal.Signals(signum))

    def _receive(self, signum: signal.Signals) -> None:
        is_first = not self._received
        # SIGTERM after SIGINT is no repetition: on Ctrl-C a supervisor sends SIGTERM to the processes that have got
        # SIGINT from the terminal already.
        is_repeated = signum in self._received or (signum == signal.SIGINT and not is_first)
        self._received.add(signum)
        self.is_draining = True
        if is_repeated and self._abort is None:
            log.warning("%s is a repeated signal to stop: stopping at once", signum.name)
            # Not in the task: granian may have stopped its loop by the time the task would run.
            self._end_page()
            self._flows.end_streams()
            self._flows.kill_workers()
            self._abort = asyncio.ensure_future(self._stop_at_once())
        elif is_first and signum == signal.SIGTERM and self._delay > 0:
            log.info("SIGTERM: /ready responds 503 now; requests are served for another %g s", self._delay)
            self._timer = self._loop.call_later(self._delay, self._shut_down, signum)
        elif is_first:
            self._shut_down(signum)

    def _shut_down(self, signum: signal.Signals) -> None:
        """Begin the server's own shutdown, and the end of the streams with it."""
        self._flows.pause_jobs()
        self._end_page()
        if signum == signal.SIGTERM:
            self._stream_timers = self._flows.end_streams_later()
        else:
            self._flows.end_streams()
        self._pass_on(signum)

    async def _stop_at_once(self) -> None:
        try:
            await self._flows.stop(graceful=False)
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._pass_on(signal.SIGTERM)
            # uvicorn stops at once on a second SIGINT only, whichever signal came.
            self._pass_on(signal.SIGINT)

    def _pass_on(self, signum: signal.Signals) -> None:
        handler = self._previous.get(signum)
        if handler is None:
            return
        if self._loop_signals is not None:
            self._loop_signals.send(signum)
        elif handler is _interrupt:
            interrupted = signal.signal(signal.SIGINT, self._previous.get(signal.SIGINT, signal.SIG_DFL))
            handler(signum, None)
            signal.signal(signal.SIGINT, interrupted)
        else:
            handler(signum, None)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
