"""Replaces the workers of a flow that are worn, while work goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from ...logger import log
from ..statistics import WorkerState
from ..wire.frames import Kind, pack
from .handle import WorkerHandle
from .pool import Pool
from .slot import Slot


class Recycler:
    """Launches a replacement for a worn worker, and has the worn one leave when that is ready: one in each step.

    Args:
        pools: The workers of each step.
        slots: The places of all workers.
        launch: Launches a worker in a free slot.
        stop_time: Seconds in which `on_stop` must return.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        slots: Sequence[Slot],
        launch: Callable[[Slot], None],
        stop_time: float,
    ) -> None:
        self._pools = pools
        self._slots = slots
        self._launch = launch
        self._stop_time = stop_time

    def watch_age(self, slot: Slot, loop: asyncio.AbstractEventLoop) -> None:
        """Look at the ready worker in a slot when it reaches its age; an idle one says nothing by itself.

        Args:
            slot: Its slot.
            loop: The event loop.
        """
        max_age = self._pools[slot.step].step.max_age
        if max_age is not None and slot.worker is not None:
            remaining = max(0.0, slot.worker.ready_at + max_age - time.monotonic())
            slot.age = loop.call_later(remaining, self.check, slot)

    def check(self, slot: Slot) -> None:
        """Launch a replacement for the worker in a slot if it is worn and no other of its step is being replaced."""
        worker = slot.worker
        if worker is None or not self._pools[slot.step].wears:
            return
        reason = slot.wear_of(worker, time.monotonic())
        if not reason or worker.state is not WorkerState.READY:
            return
        others = [other for other in self._slots if other.step == slot.step]
        spare = next((other for other in others if other.is_free), None)
        if spare is not None and not any(other.replaces is not None for other in others):
            log.info("worker of %s (pid %d) will be replaced: %s", worker.name, worker.pid, reason)
            spare.replaces = worker
            self._launch(spare)

    def check_others(self, step: int) -> None:
        """Look at the workers of a step when one of them has left: now it may be another's turn."""
        for slot in self._slots:
            if slot.step == step:
                self.check(slot)

    def note_ready(self, slot: Slot) -> None:
        """Have the worker leave that the one in this slot replaces, if it replaces one."""
        worn, slot.replaces = slot.replaces, None
        if worn is None:
            return
        self._pools[worn.step].retire(worn)
        if not worn.in_flight:
            self.dismiss(worn)

    def note_gone(self, worker: WorkerHandle) -> None:
        """Note that a worker is gone: what was to replace it is there in its own right."""
        for slot in self._slots:
            if slot.replaces is worker:
                slot.replaces = None

    def dismiss(self, worker: WorkerHandle) -> None:
        """Have a worker leave that has nothing in hand."""
        worker.state = WorkerState.STOPPING
        worker.send(pack(Kind.STOP))
        worker.sentinel.kill_later(self._stop_time)
