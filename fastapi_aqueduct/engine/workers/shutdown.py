"""The end of all workers of a flow: a stop, a kill, and the end of the interpreter."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from ...logger import log
from ..statistics import WorkerState
from ..timing import Timing
from .group import Remains
from .handle import WorkerHandle
from .launches import Launches
from .pool import Pool

KILL_AFTER = 1.0
"""Seconds from SIGTERM to SIGKILL, and from SIGKILL until the wait for a process is given up."""


class Shutdown:
    """Ends all workers.

    Args:
        pools: The workers of all steps.
        launches: The launches under way.
        remains: The process groups of workers that are gone.
        timing: The times of the engine.

    Attributes:
        has_begun: Whether workers that end are not replaced.
    """

    def __init__(self, pools: Sequence[Pool], launches: Launches, remains: Remains, timing: Timing) -> None:
        self.has_begun = False
        self._pools = pools
        self._launches = launches
        self._remains = remains
        self._stop_time = timing.stop_time
        self._gone: asyncio.Future[None] | None = None

    async def stop(self) -> None:
        """Stop every worker; those that do not stop are terminated, then killed.

        A worker that still has tasks is terminated at once: a graceful stop of the flow has waited for them already.
        But one with several calls under way has been sent that they are cancelled, and ends them.
        """
        await self._begin()
        for worker in self._workers():
            if worker.in_flight and not worker.in_flight.places:
                worker.signal(signal.SIGTERM)
            else:
                worker.stop()
        for wait, signum in ((self._stop_time, signal.SIGTERM), (KILL_AFTER, signal.SIGKILL)):
            if await self._wait_gone(wait):
                await self._remains.wait()
                return
            for worker in self._workers():
                log.warning("worker of %s (pid %d) did not stop: sending %s", worker.name, worker.pid, signum.name)
                worker.signal(signum)
        await self._wait_gone(KILL_AFTER)
        await self._remains.wait()

    async def kill(self) -> None:
        """Kill every worker, and wait until they are gone."""
        await self._begin()
        self.kill_at_once()
        await self._wait_gone(KILL_AFTER)
        self._remains.kill()

    def kill_at_once(self) -> None:
        """Send SIGKILL to every worker and its process group, without waiting; `kill` or `stop` may follow."""
        self.has_begun = True
        for worker in self._workers():
            worker.sentinel.signal_group(signal.SIGKILL)
        self._remains.kill()

    def close_channels(self) -> None:
        """Close the channels without waiting, at the exit of the interpreter: workers then end by themselves.

        No signal is sent: it would leave a worker no time for `on_stop` and for the processes it has started.
        """
        self.has_begun = True
        for worker in self._workers():
            worker.close()
        self._remains.kill()

    def note_gone(self) -> None:
        """Handle the end of a worker."""
        if self._gone is not None and not self._gone.done() and not self._workers():
            self._gone.set_result(None)

    async def _begin(self) -> None:
        self.has_begun = True
        for pool in self._pools:
            for slot in pool.slots:
                slot.cancel_timers()
        await self._launches.end()
        for worker in self._workers():
            if worker.state is WorkerState.STARTING:
                worker.signal(signal.SIGTERM)  # it reads nothing while it loads its model, and has nothing to finish
            worker.state = WorkerState.STOPPING

    async def _wait_gone(self, timeout: float) -> bool:
        if not self._workers():
            return True
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([self._gone], timeout=timeout)
        return bool(done)

    def _workers(self) -> list[WorkerHandle]:
        return [slot.worker for pool in self._pools for slot in pool.slots if slot.worker is not None]
