"""The queue of a step: which waiting tasks go next, and when. Has no clock: the time is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Generic, Protocol, TypeVar

from ...task import checked_priority

AGING = 1.0
"""Seconds of waiting that weigh as much as one level of priority, so that no task starves."""


class Waiting(Protocol):
    """What can wait in a queue."""

    priority: int
    arrived_at: float

    @property
    def is_settled(self) -> bool:
        """Whether its caller does not wait any more: cancelled or timed out."""


T = TypeVar("T", bound=Waiting)


def level_of(priority: int, levels: int) -> int:
    """Return the level of a priority; one above the highest level counts as the highest.

    Args:
        priority: The priority of a task.
        levels: Number of levels.

    Raises:
        ConfigurationError: It is not a whole number.
    """
    return min(max(checked_priority(priority), 0), levels - 1)


class BatchQueue(Generic[T]):
    """The tasks that wait for one step.

    Args:
        batch_size: The most tasks in a batch.
        batch_timeout: Seconds from the arrival of the oldest task until a batch goes that is not full.
        priorities: Number of priority levels.

    Attributes:
        batch_size: The most tasks in a batch.
        batch_timeout: Seconds from the arrival of the oldest task until a batch goes that is not full.
        count: How many tasks wait.
    """

    def __init__(self, batch_size: int, batch_timeout: float, priorities: int) -> None:
        self.batch_size = batch_size
        self.batch_timeout = batch_timeout
        self.count = 0
        self._levels: list[deque[T]] = [deque() for _ in range(priorities)]
        self._counts = [0] * priorities
        self._alone: deque[T] = deque()

    @property
    def levels(self) -> int:
        """Number of priority levels."""
        return len(self._levels)

    def level(self, priority: int) -> int:
        """Return the level of a priority; one above the highest level counts as the highest.

        Raises:
            ConfigurationError: It is not a whole number.
        """
        return level_of(priority, len(self._levels))

    def waiting(self, level: int) -> int:
        """Count the tasks that wait in one level."""
        return self._counts[level]

    @property
    def has_alone(self) -> bool:
        """Whether the next batch is a task that goes alone."""
        return self._skip_settled(self._alone)

    def tasks(self) -> Iterator[T]:
        """Yield the tasks that wait, in no order."""
        return (item for item in chain(self._alone, *self._levels) if not item.is_settled)

    def push(self, item: T) -> None:
        """Add a task behind those of its priority, which must be a level."""
        self._levels[item.priority].append(item)
        self._counts[item.priority] += 1
        self.count += 1

    def push_alone(self, item: T) -> None:
        """Add a task that goes next, in a batch of its own: it may have killed a worker."""
        self._alone.append(item)
        self._counts[item.priority] += 1
        self.count += 1

    def push_front(self, item: T) -> None:
        """Put a task back in front of those of its priority: its worker has died and had not begun it."""
        self._levels[item.priority].appendleft(item)
        self._counts[item.priority] += 1
        self.count += 1

    def discard(self, item: T) -> None:
        """Note that a task in the queue is settled; it is skipped when it comes to the front."""
        self._counts[item.priority] -= 1
        self.count -= 1
        if not self.count:
            self._alone.clear()
            for level in self._levels:
                level.clear()

    def oldest_at(self) -> float:
        """Return when the task arrived that has waited longest. The queue must not be empty."""
        queues = [self._alone, *self._levels]
        return min(queue[0].arrived_at for queue in queues if self._skip_settled(queue))

    def due_at(self) -> float:
        """Return when the next batch should go; a time in the past means now. The queue must not be empty."""
        if self.has_alone:
            return self._alone[0].arrived_at
        oldest = min(level[0].arrived_at for level in self._levels if self._skip_settled(level))
        if self.count >= self.batch_size:
            return oldest
        return oldest + self.batch_timeout

    def is_next_full(self, now: float) -> bool:
        """Tell whether no task could join the next batch any more."""
        return self.count >= self.batch_size

    def next_size(self, now: float) -> int:
        """Count the tasks of the next batch."""
        return min(self.count, self.batch_size)

    def calls(self, more: int = 0) -> int:
        """Count the calls of the handler that the tasks take, and ``more`` further ones."""
        return -(-(self.count + more) // self.batch_size)

    def pop_batches(self, now: float, calls: int) -> list[T]:
        """Remove and return the next batches, for ``calls`` calls of the handler; only the last may be short."""
        if len(self._levels) == 1 and not self._alone:
            return self._pop_oldest(calls * self.batch_size)
        batch = self.pop_batch(now)
        for _ in range(calls - 1):
            if len(batch) % self.batch_size or not self.count or self._alone:
                break
            batch += self.pop_batch(now)
        return batch

    def pop_batch(self, now: float) -> list[T]:
        """Remove and return the next batch: higher priorities first, where long waiting raises a priority."""
        batch: list[T] = []
        if self._alone and self._skip_settled(self._alone):
            batch.append(self._alone.popleft())
        elif len(self._levels) == 1:
            return self._pop_oldest(self.batch_size)
        else:
            while len(batch) < self.batch_size and (urgent := self._most_urgent(now)) is not None:
                batch.append(urgent.popleft())
        for item in batch:
            self._counts[item.priority] -= 1
        self.count -= len(batch)
        return batch

    def _pop_oldest(self, most: int) -> list[T]:
        """Remove and return at most ``most`` tasks of the only level."""
        level = self._levels[0]
        batch: list[T] = []
        while level and len(batch) < most:
            item = level.popleft()
            if not item.is_settled:
                batch.append(item)
        self._counts[0] -= len(batch)
        self.count -= len(batch)
        return batch

    def _most_urgent(self, now: float) -> deque[T] | None:
        best: deque[T] | None = None
        highest = 0.0
        for priority, level in enumerate(self._levels):
            if self._skip_settled(level):
                urgency = priority + (now - level[0].arrived_at) / AGING
                if best is None or urgency >= highest:
                    best, highest = level, urgency
        return best

    @staticmethod
    def _skip_settled(level: deque[T]) -> bool:
        while level and level[0].is_settled:
            level.popleft()
        return bool(level)
