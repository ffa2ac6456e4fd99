"""Reclaims shared memory that processes only keep warm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from ..memory.flow_memory import FlowMemory
from ..wire.frames import Kind, pack
from .stage import Stage


class Tenancy(Protocol):
    """A process that allocates in a region of its own: a worker, or an API process that is served by this one.

    Attributes:
        region: The number of the region.
    """

    @property
    def region(self) -> int:
        """As above."""

    def send(self, data: bytes) -> None:
        """Send packed frames."""

    def send_released(self, released: list[int]) -> None:
        """Send which blocks of its region are free again, if there are any."""


class Reclaimer:
    """Reclaims shared memory from the processes of a flow.

    Args:
        stages: The steps, whose workers have regions of their own.
        memory: The shared memory of the flow.

    Attributes:
        guests: The API processes that are served by this one.
    """

    def __init__(self, stages: list[Stage], memory: FlowMemory) -> None:
        self.guests: set[Tenancy] = set()
        self._stages = stages
        self._memory = memory
        self._arena = memory.arena
        self._ledger = memory.ledger
        self._waiters = memory.waiters
        self._waiting: set[Tenancy] = set()
        self._watch = contextlib.ExitStack()

    def reclaim(self, waiting: Tenancy | None = None) -> None:
        """Tell every worker which blocks are free, and make every process but the waiting one return idle memory.

        Args:
            waiting: The worker that waits; None: this process waits. The waiting process returns memory only when it
                allocates, and no more than a new block needs: the rest will be filled again at once, and fresh pages
                cost a fault each.
        """
        for stage in self._stages:
            if stage.copier is not None:
                stage.copier.release_pairs()
        self._reclaim(waiting)

    def _reclaim(self, waiting: Tenancy | None = None) -> None:
        self._arena.collect()
        if waiting is not None:
            self._arena.trim()
        self._memory.trim_vacant()
        for process in self._processes():
            process.send_released(self._ledger.pop_released(process.region))
            if process is not waiting:
                process.send(pack(Kind.TRIM))

    def _processes(self) -> Iterator[Tenancy]:
        for stage in self._stages:
            yield from stage.pool.all_workers()
        yield from list(self.guests)

    def reclaim_for(self, worker: Tenancy) -> None:
        """As `reclaim` for a process that waits, and send it the blocks of its region that are released next.

        No other frame may go to it: its consumers are just about to take what it has sent.
        """
        if not self._waiting:
            self._watch.enter_context(self._waiters.watch(self._serve))
        self._waiting.add(worker)
        self.reclaim(worker)

    def forget(self, worker: Tenancy) -> None:
        """Forget a process that is gone."""
        self._waiting.discard(worker)
        if not self._waiting:
            self._watch.close()

    def _serve(self) -> None:
        for process in list(self._waiting):
            # An API process may have sent a block again that was free.
            free = [offset for offset in self._ledger.pop_released(process.region) if not self._ledger.is_held(offset)]
            if free:
                self.forget(process)  # if that is too little, it says so again
                process.send_released(free)

    def return_to_system(self) -> None:
        """Return the memory of all processes that is kept for future tasks."""
        self._arena.trim()
        self._reclaim()
        for stage in self._stages:
            for worker in stage.pool.all_workers():
                worker.send(pack(Kind.RECLAIM))
