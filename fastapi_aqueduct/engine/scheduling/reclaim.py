"""Gets shared memory back from where it lies idle."""

from __future__ import annotations

from ..memory.flow_memory import FlowMemory
from ..wire.frames import Kind, pack
from ..workers.handle import WorkerHandle
from .stage import Stage


class Reclaimer:
    """Makes room in shared memory.

    Args:
        stages: The steps, whose workers have regions of their own.
        memory: The shared memory of the flow.
    """

    def __init__(self, stages: list[Stage], memory: FlowMemory) -> None:
        self._stages = stages
        self._arena = memory.arena
        self._ledger = memory.ledger

    def make_room(self, waiting: WorkerHandle | None = None) -> None:
        """Tell every worker what is free, and have every process but the one that waits give idle memory back.

        Args:
            waiting: The worker that waits; None: this process does. It gives back no more than is in the way of a new
                block, when it takes one: all else will be filled again at once, and fresh pages cost a fault each.
        """
        self._arena.collect()
        if waiting is not None:
            self._arena.trim()
        for stage in self._stages:
            for worker in stage.workers:
                worker.flush(self._ledger.pop_released(worker.region))
                if worker is not waiting:
                    worker.send(pack(Kind.TRIM))

    def give_back(self) -> None:
        """Give the memory back that was kept for tasks to come."""
        self._arena.trim()
        self.make_room()
        for stage in self._stages:
            for worker in stage.workers:
                worker.send(pack(Kind.RECLAIM))
