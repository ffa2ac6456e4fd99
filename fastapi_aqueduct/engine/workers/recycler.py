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
        worn = slot.wear.check(worker, time.monotonic())
        if worn is None:
            return
        kind, reason = worn
        spare = pool.spare()
        if spare is not None and not pool.is_changing():
            log.info("worker of %s (pid %d) will be replaced: %s", worker.name, worker.pid, reason)
            spare.replaces, spare.wear_kind = worker, kind
            self._launch(pool, spare)

    def note_ready(self, pool: Pool, slot: Slot) -> None:
        """Dismiss the worker that the one in this slot replaces, if it replaces one."""
        worker, kind = slot.replaces, slot.wear_kind
        slot.replaces = slot.wear_kind = None
        if worker is None:
            return
        if kind is not None:
            pool.recycled[kind] += 1
        self.retire(pool, worker)

    def retire(self, pool: Pool, worker: WorkerHandle) -> None:
        """Give no more tasks to a worker, and stop it when no caller waits for those that it has.

        A worker whose handler hangs leaves when its callers have given up: what replaces it must not wait for ever.
        """
        pool.retire(worker)
        worker.on_unneeded = self.dismiss
        if not worker.in_flight.is_awaited():
            self.dismiss(worker)

    def note_gone(self, pool: Pool, worker: WorkerHandle) -> None:
        """Handle the end of a worker: its replacement replaces none any more."""
        for slot in pool.slots:
            if slot.replaces is worker:
                slot.replaces = slot.wear_kind = None

    def check_all(self, pool: Pool) -> None:
        """Check all workers of a pool, one of which has left: another may be replaced now."""
        if pool.has_wear:
            for slot in pool.slots:
                self.check(pool, slot)

    def dismiss(self, worker: WorkerHandle) -> None:
        """Stop a worker whose tasks no caller waits for; it returns its memory first, and is killed if it hangs."""
        worker.state = WorkerState.STOPPING
        worker.send(pack(Kind.TRIM))  # here: to return gigabytes would hold up the event loop of this process
        worker.stop()
        worker.sentinel.kill_later(self._stop_time)
