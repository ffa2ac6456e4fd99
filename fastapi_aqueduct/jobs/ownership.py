"""The ownership of a store: one process at a time runs its jobs, and another one takes over when that one ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from ..exceptions import StoreError, StoreInUse
from ..logger import log
from .lock import StoreLock
from .tenure import Tenure

STOP_SLACK = 15.0
"""Seconds beyond two ``stop_timeout`` that a process waits for the end of another one that has the store.

A graceful stop takes a ``drain_delay``, one ``stop_timeout`` until open streams end, another one until the flows have
stopped, and some seconds for the workers.
"""

RETRY = 10.0
"""Seconds after which a process tries again to run the jobs of a store that could not be used."""


class Ownership:
    """Takes the lock of a store, and runs its jobs in a tenure while this process has it.

    Args:
        path: The file of the store, for messages.
        lock: Its lock.

    Attributes:
        tenure: Runs the jobs; None while another process does.
    """

    def __init__(self, path: Path, lock: StoreLock) -> None:
        self.tenure: Tenure | None = None
        self._path = path
        self._lock = lock
        self._background: list[asyncio.Task[None]] = []
        self._is_paused = False

    async def take(self, stop_timeout: float) -> None:
        """Become the owner; wait for the end of another one, as long as a graceful stop takes.

        Args:
            stop_timeout: The longest ``stop_timeout`` of a flow.

        Raises:
            StoreInUse: Another process has the store.
            StoreError: The lock cannot be used.
        """
        timeout = 2 * stop_timeout + STOP_SLACK
        if self._lock.take():
            return
        log.info("the store of jobs %s belongs to another process: waiting up to %g s for its end", self._path, timeout)
        if not await self._lock.wait(timeout):
            raise StoreInUse(
                f"another process runs the jobs in {self._path}, and has not ended within {timeout:g} s: give each "
                'server a store of its own, or have its processes share one pipeline, Aqueduct(..., pipeline="host")'
            )

    async def begin(self, make_tenure: Callable[[], Tenure]) -> None:
        """Run the jobs: now if this process is the owner or can be it, else in the background when the owner ends.

        Args:
            make_tenure: Makes what runs the jobs, with the store open.

        Raises:
            StoreError: The store cannot be used.
            OSError: Its files cannot be listed.
        """
        if self._lock.is_held or self._lock.take():
            await self._own(make_tenure)
        else:
            self._background.append(asyncio.create_task(self._succeed(make_tenure)))

    async def _succeed(self, make_tenure: Callable[[], Tenure]) -> None:
        """Become the owner when the owner ends."""
        while not self._is_paused:
            try:
                await self._lock.wait(None)
                if not self._is_paused:
                    log.info("this process runs the jobs in %s now", self._path)
                    await self._own(make_tenure)
                return
            except (StoreError, OSError) as exc:
                log.error("this process cannot run the jobs in %s, next try in %g s: %s", self._path, RETRY, str(exc))
                self._lock.release()  # another process may be able to
                await asyncio.sleep(RETRY)

    async def _own(self, make_tenure: Callable[[], Tenure]) -> None:
        self.tenure = make_tenure()
        await self.tenure.begin()

    def wake(self, flow: str) -> None:
        """Look for jobs of a flow, if this process runs them."""
        if self.tenure is not None:
            self.tenure.wake(flow)

    def cancel(self, flow: str, job: str) -> None:
        """Cancel a job of a flow, if it runs here."""
        if self.tenure is not None:
            self.tenure.cancel(flow, job)

    def follow_others(self) -> None:
        """Have a task look for what other processes have changed in the store, if this process runs its jobs."""
        if self.tenure is not None:
            self._background = [task for task in self._background if not task.done()]
            self._background.append(asyncio.create_task(self._follow_others(self.tenure)))

    async def _follow_others(self, tenure: Tenure) -> None:
        with contextlib.suppress(StoreError):  # at the next ring, then
            await tenure.follow_others()

    def resume(self) -> None:
        """Begin jobs again, after a pause."""
        self._is_paused = False

    def pause(self) -> None:
        """Begin no more jobs."""
        self._is_paused = True
        if self.tenure is not None:
            self.tenure.pause()

    async def end(self) -> None:
        """End what runs the jobs, and the wait for the end of another owner; the lock stays until `release`."""
        background, self._background = self._background, []
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        tenure, self.tenure = self.tenure, None
        if tenure is not None:
            await tenure.end()

    def release(self) -> None:
        """Let another process become the owner."""
        self._lock.release()
