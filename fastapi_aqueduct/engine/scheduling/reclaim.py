"""Gets shared memory back from where it lies idle."""

from __future__ import annotations

from ..memory.ledger import Ledger
from ..wire.frames import Kind, pack
from ..workers.handle import WorkerHandle
from .stage import Stage


class Reclaimer:
    """Makes room in shared memory.

    Args:
        stages: The steps, whose workers have regions of their own.
        ledger: Who holds which block.
    """

    def __init__(self, stages: list[Stage], ledger: Ledger) -> None:
        self._stages = stages
        self._ledger = ledger

    def make_room(self, waiting: WorkerHandle | None = None) -> None:
        """Tell every worker what is free, and have all of them but the one that waits give idle memory back."""
        self._ledger.arena.collect()
        self._ledger.arena.trim()
        for stage in self._stages:
            for worker in stage.workers:
                worker.flush(self._ledger.take_released(worker.region))
                if worker is not waiting:
                    worker.send(pack(Kind.TRIM))

    def give_back(self) -> None:
        """Give the memory back that was kept for tasks to come."""
        self.make_room()
        for stage in self._stages:
            for worker in stage.workers:
                worker.send(pack(Kind.RECLAIM))
