"""What queues have in common that look at the marks of tasks: their keys, and what they cost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol, TypeVar

from ..marks import Marks
from .queue import BatchQueue, Waiting


class Marked(Waiting, Protocol):
    """What can wait in such a queue."""

    @property
    def marks(self) -> Marks:
        """Its key and its cost, and whose it is."""


T = TypeVar("T", bound=Marked)


class MarkedQueue(BatchQueue[T], ABC):
    """The tasks that wait for one step, of which not all may share a batch.

    Args:
        batch_size: The most tasks in a batch.
        batch_timeout: Seconds from the arrival of the oldest task of a key until a batch goes that is not full.
        priorities: Number of priority levels.
        most_cost: The most that the tasks of a batch cost together; one that costs more goes alone.
    """

    def __init__(self, batch_size: int, batch_timeout: float, priorities: int, most_cost: float) -> None:
        super().__init__(batch_size, batch_timeout, priorities)
        self._most_cost = most_cost
        self._calls = 0  # that the tasks of all keys take

    @abstractmethod
    def head(self, now: float) -> T:
        """Return the first task of the next batch. The queue must not be empty."""

    def calls(self, more: int = 0) -> int:
        """Count the calls of the handler that the tasks take, if further ones have keys of their own."""
        return self._calls + len(self._alone) + more

    def pop_batches(self, now: float, calls: int) -> list[T]:
        """Remove and return the next batch, for one call of the handler: of another key, the next may have others."""
        return self.pop_batch(now)

    def _calls_of(self, count: int, cost: int) -> int:
        """Count the calls that tasks of one key take."""
        return max(-(-count // self.batch_size), math.ceil(cost / self._most_cost))

    def _fills_batch(self, count: int, cost: int) -> bool:
        """Tell whether tasks of one key leave no place for a further one in their next batch."""
        return count >= self.batch_size or cost >= self._most_cost
