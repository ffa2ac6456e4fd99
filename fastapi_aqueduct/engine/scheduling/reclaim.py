"""Gets shared memory back from where it lies idle."""

from __future__ import annotations

from ..memory.ledger import Ledger
from ..wire.frames import Kind, pack
from ..workers.handle import WorkerLink
from .stage import StepDesk


class Relief:
    """Makes room in shared memory.

    Args:
        desks: The steps, whose workers have regions of their own.
        ledger: Who holds which block.
    """

    def __init__(self, desks: list[StepDesk], ledger: Ledger) -> None:
        self._desks = desks
        self._ledger = ledger

    def make_room(self, waiting: WorkerLink | None = None) -> None:
        """Tell every worker what is free, and have all of them but the one that waits give idle memory back."""
        self._ledger.arena.collect()
        self._ledger.arena.trim()
        for desk in self._desks:
            for link in desk.links:
                link.flush(self._ledger.take_released(link.region))
                if link is not waiting:
                    link.send(pack(Kind.TRIM))

    def give_back(self) -> None:
        """Give the memory back that was kept for tasks to come."""
        self.make_room()
        for desk in self._desks:
            for link in desk.links:
                link.send(pack(Kind.REST))
