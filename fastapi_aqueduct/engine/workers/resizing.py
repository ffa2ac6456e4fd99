"""Resizing: a step gets more or fewer workers while it serves."""

from __future__ import annotations

from collections.abc import Callable

from ...exceptions import StartError
from .change import Change
from .pool import LEAVING, Pool
from .slot import Slot


class Resizing(Change):
    """Gives a pool another number of workers.

    Args:
        pool: The pool.
        size: How many workers it should have.
        fit: Launches the workers that a pool lacks, and has those leave that are too many.
        on_end: Called when there are as many as there should be.
    """

    def __init__(self, pool: Pool, size: int, fit: Callable[[Pool], None], on_end: Callable[[Change], None]) -> None:
        super().__init__("scaled", on_end)
        self._pool = pool
        self._previous = pool.size
        self._size = size
        self._fit = fit

    def advance(self) -> None:
        """Launch or retire workers."""
        pool = self._pool
        pool.resize(self._size)
        self._fit(pool)
        leaving = any(worker.state in LEAVING for worker in pool.workers)
        if not leaving and len(pool.ready_workers()) == pool.size:
            self._end()

    def raise_to(self, size: int) -> None:
        """Give the pool more workers than were asked for, as there are tasks for them.

        Args:
            size: How many workers it should have.
        """
        if size > self._size:
            self._size = size
            self.advance()

    def go_back(self) -> None:
        """Return to the number of workers before."""
        self._size = self._previous
        self._pool.resize(self._size)

    def note_failed(self, slot: Slot, error: StartError) -> bool:
        """Go back if there were to be more workers."""
        if self._size <= self._previous:
            return False
        self._fail(error)
        return True
