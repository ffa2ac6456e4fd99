"""The search for the pipeline process of a flow: for its start, and again each time that one is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ...exceptions import AqueductError, StartError
from ...logger import log
from .handshake import ClientEnd

PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds between attempts to reach a pipeline process again; the last one repeats."""


class Rendezvous(Protocol):
    """Finds the pipeline process of a flow, and may start it."""

    def connect(self, deadline: float) -> ClientEnd:
        """Connect; this blocks, call it in a thread.

        Args:
            deadline: When the pipeline must be ready, on the clock of ``time.monotonic``.

        Raises:
            StartError: There is no pipeline process, or its start has failed.
            StartTimeout: It was not ready in time.
        """

    def cancel(self) -> None:
        """End a `connect` that another thread waits in, and those that follow, with an error."""

    def resume(self) -> None:
        """Let `connect` work again after `cancel`."""


class Search:
    """Looks for the pipeline process of a flow, in a thread of its own.

    Args:
        flow: Name of the flow.
        start_timeout: Seconds in which a pipeline process that is looked for again must be ready.
        rendezvous: Finds it.
        join: Uses a connection that was looked for again.

    Attributes:
        reason: Why there is no pipeline process, if that is known.
        is_over: Whether none is looked for any more.
    """

    def __init__(
        self, flow: str, start_timeout: float, rendezvous: Rendezvous, join: Callable[[ClientEnd], None]
    ) -> None:
        self.reason = ""
        self.is_over = False
        self._flow = flow
        self._start_timeout = start_timeout
        self._rendezvous = rendezvous
        self._join = join
        self._threads = ThreadPoolExecutor(1, f"aqueduct-{flow}-connect")
        self._again: asyncio.Task[None] | None = None

    async def first(self, timeout: float) -> ClientEnd:
        """Connect for the start of the flow; see `Rendezvous.connect`.

        A start that was killed is tried again: other API processes may be served already, and a server may end with
        the first of its processes that fails. A cancellation waits until the thread has given up.

        Args:
            timeout: Seconds in which the pipeline must be ready.
        """
        deadline = time.monotonic() + timeout
        for pause in PAUSES:
            try:
                return await self._connect(deadline)
            except StartError as exc:
                if exc.exit_code != -signal.SIGKILL:  # by a person, or by the system, which has no memory at present
                    raise
                self.reason = str(exc)
                log.warning("flow %s is started again: %s", self._flow, self.reason)
            await asyncio.sleep(pause)
        return await self._connect(deadline)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for a pipeline process again, until there is one.

        Args:
            loop: The event loop in which it is joined.
        """
        if not self.is_over and (self._again is None or self._again.done()):
            self._again = loop.create_task(self._run())

    def detach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Leave the event loop; `begin` looks in the next one.

        Args:
            loop: The event loop that is left.
        """
        if self._again is not None:
            self._rendezvous.cancel()  # the loop may not run the task again
            if loop is not None and not loop.is_closed():
                self._again.cancel()
        self._again = None

    def end(self) -> None:
        """Look no more, from any thread."""
        self.is_over = True
        self._rendezvous.cancel()

    def close(self) -> None:
        """Let the thread end."""
        self._threads.shutdown(wait=False)

    async def _connect(self, deadline: float) -> ClientEnd:
        done = asyncio.get_running_loop().run_in_executor(self._threads, self._dial, deadline)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            self._rendezvous.cancel()
            await asyncio.wait([done])
            if not done.cancelled() and done.exception() is None:
                done.result().close()
            raise

    def _dial(self, deadline: float) -> ClientEnd:
        # In the only thread: an earlier call that was cancelled has ended.
        if not self.is_over:
            self._rendezvous.resume()
        return self._rendezvous.connect(deadline)

    async def _run(self) -> None:
        for attempt in range(1_000_000_000):
            try:
                end = await self._connect(time.monotonic() + self._start_timeout)
                self._join(end)
            except Exception as exc:  # of any kind: without another try there would be no pipeline for good
                if self.is_over:
                    return
                self.reason = str(exc)
                unexpected = None if isinstance(exc, AqueductError) else exc
                log.error("flow %s has no pipeline: %s", self._flow, self.reason, exc_info=unexpected)
                await asyncio.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
            else:
                # As loud as the loss: else a log without infos ends with that.
                log.warning("flow %s runs again, in the pipeline process %d", self._flow, end.welcome.pid)
                return
