"""Reclaims shared memory that processes only keep warm."""

from __future__ import annotations

import contextlib

from ..memory.flow_memory import FlowMemory
from ..wire.frames import Kind, pack
from ..workers.handle import WorkerHandle
from .stage import Stage


class Reclaimer:
    """Reclaims shared memory from the processes of a flow.

    Args:
        stages: The steps, whose workers have regions of their own.
        memory: The shared memory of the flow.
    """

    def __init__(self, stages: list[Stage], memory: FlowMemory) -> None:
        self._stages = stages
        self._arena = memory.arena
        self._ledger = memory.ledger
        self._waiters = memory.waiters
        self._waiting: set[WorkerHandle] = set()
        self._watch = contextlib.ExitStack()

    def reclaim(self, waiting: WorkerHandle | None = None) -> None:
        """Tell every worker which blocks are free, and make every process but the waiting one return idle memory.

        Args:
            waiting: The worker that waits; None: this process waits. The waiting process returns memory only when it
                allocates, and no more than a new block needs: the rest will be filled again at once, and fresh pages
                cost a fault each.
        """
        self._arena.collect()
        if waiting is not None:
            self._arena.trim()
        for stage in self._stages:
            for worker in stage.workers:
                worker.send_released(self._ledger.pop_released(worker.region))
                if worker is not waiting:
                    worker.send(pack(Kind.TRIM))

    def reclaim_for(self, worker: WorkerHandle) -> None:
        """As `reclaim` for a worker that waits, and send it the blocks of its region that are released next.

        No other frame may go to it: its consumers are just about to take what it has sent.
        """
        if not self._waiting:
            self._watch.enter_context(self._waiters.watch(self._serve))
        self._waiting.add(worker)
        self.reclaim(worker)

    def forget(self, worker: WorkerHandle) -> None:
        """Forget a worker that is gone."""
        self._waiting.discard(worker)
        if not self._waiting:
            self._watch.close()

    def _serve(self) -> None:
        for worker in list(self._waiting):
            released = self._ledger.pop_released(worker.region)
            if released:
                self.forget(worker)  # if that is too little, it says so again
                worker.send_released(released)

    def return_to_system(self) -> None:
        """Return the memory of all processes that is kept for future tasks."""
        self._arena.trim()
        self.reclaim()
        for stage in self._stages:
            for worker in stage.workers:
                worker.send(pack(Kind.RECLAIM))
