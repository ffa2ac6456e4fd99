"""Replaces worn workers while work goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ...logger import log
from ..statistics import WorkerState
from ..wire.frames import Kind, pack
from .handle import WorkerHandle
from .pool import Pool
from .slot import Slot


class Recycler:
    """Launches a replacement for a worn worker, which leaves when that is ready: one at a time in each pool.

    Args:
        launch: Launches a worker in a free slot of a pool.
        stop_time: Seconds in which `on_stop` must return.
    """

    def __init__(self, launch: Callable[[Pool, Slot], None], stop_time: float) -> None:
        self._launch = launch
        self._stop_time = stop_time

    def watch_age(self, pool: Pool, slot: Slot, loop: asyncio.AbstractEventLoop) -> None:
        """Set a timer for the end of a ready worker's `max_age`: an idle worker sends nothing after which to check.

        Args:
            pool: Its pool.
            slot: Its slot.
            loop: The event loop.
        """
        if pool.step.max_age is not None and slot.worker is not None:
            remaining = max(0.0, slot.worker.ready_at + pool.step.max_age - time.monotonic())
            slot.age = loop.call_later(remaining, self.check, pool, slot)

    def check(self, pool: Pool, slot: Slot) -> None:
        """Launch a replacement for the worker in a slot if it is worn and no other of its pool is being replaced."""
        worker = slot.worker
        if worker is None or slot.wear is None or worker.state is not WorkerState.READY:
            return
        reason = slot.wear.reason(worker, time.monotonic())
        if not reason:
            return
        spare = next((other for other in pool.slots if other.is_free), None)
        if spare is not None and not any(other.replaces is not None for other in pool.slots):
            log.info("worker of %s (pid %d) will be replaced: %s", worker.name, worker.pid, reason)
            spare.replaces = worker
            self._launch(pool, spare)

    def note_ready(self, pool: Pool, slot: Slot) -> None:
        """Dismiss the worker that the one in this slot replaces, if it replaces one."""
        worn, slot.replaces = slot.replaces, None
        if worn is None:
            return
        pool.retire(worn)
        if not worn.in_flight:
            self.dismiss(worn)

    def note_gone(self, pool: Pool, worker: WorkerHandle) -> None:
        """Handle the end of a worker: its replacement replaces none any more."""
        for slot in pool.slots:
            if slot.replaces is worker:
                slot.replaces = None

    def check_all(self, pool: Pool) -> None:
        """Check all workers of a pool, one of which has left: another may be replaced now."""
        if pool.has_wear:
            for slot in pool.slots:
                self.check(pool, slot)

    def dismiss(self, worker: WorkerHandle) -> None:
        """Stop a worker that has no tasks."""
        worker.state = WorkerState.STOPPING
        worker.send(pack(Kind.STOP))
        worker.sentinel.kill_later(self._stop_time)
