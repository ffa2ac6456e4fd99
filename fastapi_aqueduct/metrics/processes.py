"""How many worker processes run, and how many have died."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from .base import IMetricsItems


@dataclass
class ProcessesStats(IMetricsItems):
    """Numbers of worker processes.

    Attributes:
        dead: Processes that have died.
        running: Processes that run, summed over the times at which they were counted.
    """

    dead: int = 0
    running: int = 0

    @property
    def items(self) -> Iterable[tuple[str, int]]:
        """The names and values."""
        return asdict(self).items()

    def extend(self, obj: ProcessesStats) -> None:
        """Add other numbers.

        Args:
            obj: The other numbers.
        """
        self.dead += obj.dead
        self.running += obj.running

    def add_dead_process(self) -> None:
        """Count a process that has died."""
        self.dead += 1

    def add_running_process(self) -> None:
        """Count a process that runs."""
        self.running += 1
