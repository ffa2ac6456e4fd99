"""Reclaims shared memory that processes only keep warm."""

from __future__ import annotations

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

    def return_to_system(self) -> None:
        """Return the memory of all processes that is kept for future tasks."""
        self._arena.trim()
        self.reclaim()
        for stage in self._stages:
            for worker in stage.workers:
                worker.send(pack(Kind.RECLAIM))
