"""The shared memory of a flow, in the process that dispatches its tasks."""

from __future__ import annotations

from collections.abc import Iterable

from ..refusals import Refusals
from ..statistics import ArenaStatistics
from .arena import Arena
from .arrivals import Arrivals
from .layout import Layout
from .ledger import Ledger
from .mapping import Mapping
from .memory_waiters import MemoryWaiters


class FlowMemory:
    """The holds of the whole flow, and what this process allocates in region 0.

    Args:
        mapping: The shared memory.
        layout: The division of the shared memory.
        refusals: Counts what the flow refuses; None: another counter.

    Attributes:
        arena: The memory as this process uses it.
        ledger: The holds on the blocks of all regions.
        waiters: The callers that wait for memory.
        arrivals: The bodies that are arriving.
        refusals: As given.
    """

    def __init__(self, mapping: Mapping, layout: Layout, refusals: Refusals | None = None) -> None:
        self.refusals = refusals or Refusals()
        self.arena = Arena(mapping, layout, 0, self._on_view_end)
        self.waiters = MemoryWaiters(self.arena, self.refusals)
        self.ledger = Ledger(layout, self.arena.leases, self._free, self.waiters.notify_freed)
        self.arrivals = Arrivals(self.arena, self.waiters, self.refusals)
        self._vacant: dict[int, Arena] = {}

    def occupy(self, region: int) -> dict[int, int]:
        """Leave a region to a worker that is being launched.

        Args:
            region: The number of the region.

        Returns:
            Size of each block by its offset that is in use there.
        """
        self._vacant.pop(region, None)
        return self.ledger.adoptable_blocks(region)

    def vacate(self, region: int) -> None:
        """Return the memory of a region to the system whose worker is gone and has no successor yet.

        Blocks that are in use stay, until `trim_vacant` finds them released.

        Args:
            region: The number of the region.
        """
        arena = self._vacant[region] = Arena(self.arena.mapping, self.arena.layout, region, _ignore)
        arena.adopt(self.ledger.adoptable_blocks(region))
        self.waiters.notify()

    def trim_vacant(self) -> None:
        """Return the memory of blocks to the system that were released in regions without a worker."""
        for region, arena in self._vacant.items():
            if released := self.ledger.pop_released(region):
                for offset in released:
                    arena.free(offset)
                arena.trim()

    def statistics(self, retained: Iterable[int]) -> ArenaStatistics:
        """Return a snapshot. Any thread may ask: what is counted is copied first.

        Args:
            retained: The blocks that code in workers has kept.
        """
        touched = self.arena.status.usage()
        leased = list(self.arena.leases)
        used = {*self.ledger.held_blocks(), *leased}
        return ArenaStatistics(
            limit=self.arena.layout.limit,
            touched=touched,
            used=sum(map(self._size, used)),
            leased=sum(map(self._size, leased)),
            retained=sum(map(self._size, retained)),
            receiving=self.arrivals.held,
            free=max(0, touched - self.arena.allocator.used - self.ledger.foreign_size()),
            blocks=len(used),
        )

    def _size(self, offset: int) -> int:
        return self.arena.allocator.blocks.get(offset) or self.ledger.size_of(offset)

    def _on_view_end(self, offset: int) -> None:
        self.ledger.note_view_end(offset)

    def _free(self, offset: int) -> None:
        self.arena.free(offset)
        self.waiters.notify_freed()


def _ignore(offset: int) -> None:
    """Handle the end of a view in a region without a worker, where this process makes none."""
