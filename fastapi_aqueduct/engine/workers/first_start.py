"""The start of a flow: the wait until all of its workers are ready for the first time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ...exceptions import StartError
from ..system.fair_timer import wait_fairly
from .pool import Pool
from .start_errors import start_timeout_error


class FirstStart:
    """Waits until all workers are ready, or one has failed.

    Args:
        name: Name of the flow.
        pools: The workers of its steps.
    """

    def __init__(self, name: str, pools: Sequence[Pool]) -> None:
        self._name = name
        self._pools = pools
        self._ready: asyncio.Future[None] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a failure of a worker is a failure of the start, and no reason for a replacement."""
        return self._ready is not None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, before the first launch."""
        self._ready = loop.create_future()

    async def wait(self, timeout: float) -> None:
        """Wait until all workers are ready; then, or when it fails, the start is over.

        Raises:
            StartError: A worker failed.
            StartTimeout: They were not ready in ``timeout`` seconds.
        """
        assert self._ready is not None
        try:
            if not await wait_fairly(self._ready, timeout):
                workers = [worker for pool in self._pools for worker in pool.workers]
                raise start_timeout_error(self._name, workers, timeout)
            self._ready.result()
        finally:
            self._ready = None

    def note_ready(self) -> None:
        """Handle a worker that is ready."""
        if self._ready is not None and not self._ready.done():
            if all(len(pool.ready_workers()) == pool.size for pool in self._pools):
                self._ready.set_result(None)

    def fail(self, error: StartError) -> None:
        """Let the start fail; the first error counts."""
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)
