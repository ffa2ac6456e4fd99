"""The jobs of a store in the process that owns it: taken up, run, and removed when they are over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from ..exceptions import StoreError
from ..flow import Flow
from ..logger import log
from .changes import Changes
from .options import JobOptions
from .runner import Runner
from .spool import Spool
from .status import JobState
from .store import Store


class Tenure:
    """Runs the jobs of a store. No other process does at the same time: this one has the lock.

    Args:
        flows: The flows of the application, by name.
        store: The store.
        spool: The files.
        options: How jobs are kept and run.
        changes: Gets the jobs that change.
    """

    def __init__(
        self, flows: Mapping[str, Flow], store: Store, spool: Spool, options: JobOptions, changes: Changes
    ) -> None:
        self._store = store
        self._spool = spool
        self._options = options
        self._changes = changes
        self._runners = {name: Runner(flow, store, spool, options, changes) for name, flow in flows.items()}
        self._expiring: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Take up what a process before has left, and run jobs.

        Raises:
            StoreError: The store cannot be used.
            OSError: The files cannot be listed.
        """
        queued, failed = await self._store.recover(self._options.max_retries)
        failed += await self._store.refuse_others(tuple(self._runners))
        found = await asyncio.to_thread(lambda: list(self._spool.abandoned()))
        await self._spool.remove(await self._store.missing(found))
        if queued or failed:
            log.info("jobs: %d are in the queue, %d cannot run any more", queued, failed)
        for runner in self._runners.values():
            runner.start()
        self._expiring = asyncio.create_task(self._expire())
        self._changes.note_all()

    def wake(self, flow: str) -> None:
        """Look for jobs of a flow: there is a new one."""
        if (runner := self._runners.get(flow)) is not None:
            runner.wake()

    def cancel(self, flow: str, job: str) -> None:
        """Cancel a job of a flow, if it runs."""
        if (runner := self._runners.get(flow)) is not None:
            runner.cancel(job)

    async def follow_others(self) -> None:
        """Look for jobs that other processes have accepted, and cancel those that they have cancelled in the store.

        Raises:
            StoreError: The store cannot be used.
        """
        for runner in self._runners.values():
            runner.wake()
            for job in runner.running:
                found = await self._store.find(job)
                if found is None or found[0].state == JobState.CANCELLED:
                    runner.cancel(job)

    def pause(self) -> None:
        """Begin no more jobs."""
        for runner in self._runners.values():
            runner.pause()

    async def end(self) -> None:
        """End. What still runs goes back to the queue; at the next start, if the store cannot be used now."""
        self.pause()
        expiring, self._expiring = self._expiring, None
        if expiring is None:  # it has not begun
            return
        expiring.cancel()
        await asyncio.gather(*(runner.stop() for runner in self._runners.values()), expiring, return_exceptions=True)
        try:
            await self._store.release(self._options.max_retries)
        except StoreError as exc:
            log.error("the next start puts the jobs that ran back, and counts an attempt: %s", str(exc))

    async def _expire(self) -> None:
        keep_for = self._options.keep_for
        while True:
            delay = keep_for
            try:
                await self._spool.remove(await self._store.expire(time.time() - keep_for))
                first = await self._store.first_end()
                if first is not None:
                    delay = min(keep_for, keep_for + first - time.time())
            except StoreError as exc:
                log.error("jobs that are over cannot be removed: %s", str(exc))
            await asyncio.sleep(max(delay, 1.0))
