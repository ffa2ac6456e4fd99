"""The queue of a step whose batches depend on more than a number of tasks: on a key, or on what tasks cost.

The tasks of one key are a lane. Waiting raises all tasks alike, so which of two is more urgent never changes, and a
heap of the lanes by their most urgent task tells which is next. Has no clock: the time is passed in.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from .batch_delay import BatchDelay
from .marked_queue import Marked, MarkedQueue
from .queue import AGING, Waiting
from .ranking import Ranking

T = TypeVar("T", bound=Marked)


class Lane(Generic[T]):
    """The tasks of one key. It exists while there are any.

    Args:
        key: The key.
        priorities: Number of priority levels.

    Attributes:
        key: As given.
        count: How many tasks wait.
        cost: What they cost together.
        calls: For how many calls of the handler they are.
        rank: The rank of its most urgent task, by which it stands among the lanes that are due; the smallest is next.
        held_until: Until when it waits for more tasks; set from outside, and unknown after each change.
        delay: Decides on that; None until it is asked.
    """

    __slots__ = ("_levels", "calls", "cost", "count", "delay", "held_until", "key", "rank")

    def __init__(self, key: bytes, priorities: int) -> None:
        self.key = key
        self.count = 0
        self.cost = 0
        self.calls = 0
        self.rank = (math.inf, 0)
        self.held_until = -math.inf
        self.delay: BatchDelay | None = None
        self._levels: list[deque[T]] = [deque() for _ in range(priorities)]

    def push(self, item: T) -> None:
        """Add a task behind those of its priority."""
        self._levels[item.priority].append(item)
        self.count += 1
        self.cost += item.marks.cost

    def push_front(self, item: T) -> None:
        """Add a task in front of those of its priority."""
        self._levels[item.priority].appendleft(item)
        self.count += 1
        self.cost += item.marks.cost

    def discard(self, item: T) -> None:
        """Note that a task is settled."""
        self.count -= 1
        self.cost -= item.marks.cost

    def tasks(self) -> Iterator[T]:
        """Yield the tasks that wait, in no order."""
        return (item for level in self._levels for item in level if not item.is_settled)

    def clear(self) -> None:
        """Drop settled tasks, of which it may still have some."""
        for level in self._levels:
            level.clear()

    def head(self) -> T:
        """Return the most urgent task. The lane must not be empty."""
        return self._most_urgent()[0]

    def oldest_at(self) -> float:
        """Return when the task arrived that has waited longest. The lane must not be empty."""
        return min(level[0].arrived_at for level in self._levels if _skip_settled(level))

    def pop(self, most: int, limit: float) -> list[T]:
        """Remove and return the next batch; a task that costs more than the limit is alone.

        Args:
            most: The most tasks.
            limit: The most that they cost together.
        """
        batch: list[T] = []
        while len(batch) < most and self.count:
            level = self._most_urgent()
            cost = level[0].marks.cost
            if batch and cost > limit:
                break
            limit -= cost
            batch.append(level.popleft())
            self.count -= 1
            self.cost -= cost
        return batch

    def next_size(self, most: int, limit: float) -> int:
        """Count the tasks that `pop` would return."""
        levels = [(item for item in level if not item.is_settled) for level in self._levels]
        size = 0
        for item in itertools.islice(heapq.merge(*levels, key=rank_of), most):
            if size and item.marks.cost > limit:
                break
            limit -= item.marks.cost
            size += 1
        return size

    def _most_urgent(self) -> deque[T]:
        return min((level for level in self._levels if _skip_settled(level)), key=_rank_of_head)


class LaneQueue(MarkedQueue[T]):
    """The tasks that wait for one step, where only those of one key share a batch, and what they cost is limited.

    The lane of the most urgent task goes next, among those that are due: full, or at the end of their wait.

    Args:
        batch_size: The most tasks in a batch.
        batch_timeout: Seconds from the arrival of the oldest task of a lane until a batch goes that is not full.
        priorities: Number of priority levels.
        most_cost: The most that the tasks of a batch cost together.

    Attributes:
        lanes: The keys of which tasks wait.
        changed: Lanes whose tasks have changed since `hold` was called for them.
        unnoted: Lanes whose tasks have changed since they were taken out of here.
        popped: The lane of the last batch; None if it was a task that goes alone.
    """

    def __init__(
        self, batch_size: int, batch_timeout: float, priorities: int, most_cost: float = math.inf
    ) -> None:
        super().__init__(batch_size, batch_timeout, priorities, most_cost)
        self.lanes: dict[bytes, Lane[T]] = {}
        self.changed: dict[Lane[T], None] = {}
        self.unnoted: dict[Lane[T], None] = {}
        self.popped: Lane[T] | None = None
        self._due: Ranking[tuple[float, int], Lane[T]] = Ranking()  # by their most urgent task
        self._held: Ranking[float, Lane[T]] = Ranking()  # by the end of their wait

    def tasks(self) -> Iterator[T]:
        """Yield the tasks that wait, in no order."""
        yield from super().tasks()
        for lane in self.lanes.values():
            yield from lane.tasks()

    def push(self, item: T) -> None:
        """Add a task behind those of its key and priority."""
        lane = self._lane(item)
        lane.push(item)
        self._note_pushed(item)
        self._note_change(lane, rank_of(item) < lane.rank)

    def push_front(self, item: T) -> None:
        """Put a task back in front of those of its key and priority."""
        lane = self._lane(item)
        lane.push_front(item)
        self._note_pushed(item)
        self._note_change(lane, is_changed_in_front=True)

    def discard(self, item: T) -> None:
        """Note that a task in the queue is settled."""
        self._counts[item.priority] -= 1
        self.count -= 1
        if item not in self._alone:  # few
            lane = self.lanes[item.marks.batch_key]
            lane.discard(item)
            self._note_change(lane, is_changed_in_front=True)
        elif not self.count:
            self._alone.clear()

    def oldest_at(self) -> float:
        """Return when the task arrived that has waited longest. The queue must not be empty."""
        oldest = [lane.oldest_at() for lane in self.lanes.values()]
        return min([self._alone[0].arrived_at, *oldest] if self.has_alone else oldest)

    def due_at(self) -> float:
        """Return when the next batch should go; a time in the past means now. The queue must not be empty."""
        if self.has_alone:
            return self._alone[0].arrived_at
        return self._due.first.head().arrived_at if self._due else self._held.least

    def pop_batch(self, now: float) -> list[T]:
        """Remove and return the next batch: that of the most urgent task, among the lanes that are due."""
        if self.has_alone:
            self.popped = None
            batch = [self._alone.popleft()]
        else:
            lane = self.popped = self._next(now)
            batch = lane.pop(self.batch_size, self._most_cost)
            self._note_change(lane, is_changed_in_front=True)
        for item in batch:
            self._counts[item.priority] -= 1
        self.count -= len(batch)
        return batch

    def head(self, now: float) -> T:
        """Return the most urgent task of the next batch. The queue must not be empty."""
        return self._alone[0] if self.has_alone else self._next(now).head()

    def is_next_full(self, now: float) -> bool:
        """Tell whether no task could join the next batch any more."""
        return not self.has_alone and self.count > 0 and self._is_full(self._next(now))

    def next_size(self, now: float) -> int:
        """Count the tasks of the next batch."""
        return 1 if self.has_alone else self._next(now).next_size(self.batch_size, self._most_cost)

    def hold(self, lane: Lane[T], until: float) -> None:
        """Have a lane wait for more tasks, unless it is full."""
        lane.held_until = until
        self.changed.pop(lane, None)
        self._place(lane)

    def _lane(self, item: T) -> Lane[T]:
        key = item.marks.batch_key
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(key, self.levels)
        return lane

    def _note_pushed(self, item: T) -> None:
        self._counts[item.priority] += 1
        self.count += 1

    def _note_change(self, lane: Lane[T], is_changed_in_front: bool) -> None:
        """Note that tasks of a lane have come or gone; one without tasks is forgotten."""
        calls = self._calls_of(lane.count, lane.cost)
        self._calls += calls - lane.calls
        lane.calls = calls
        lane.held_until = -math.inf
        if lane.count:
            self.changed[lane] = self.unnoted[lane] = None
            if is_changed_in_front or lane not in self._due:
                self._place(lane)
            return
        lane.clear()
        del self.lanes[lane.key]
        for lanes in (self.changed, self.unnoted):
            lanes.pop(lane, None)
        self._due.discard(lane)
        self._held.discard(lane)

    def _is_full(self, lane: Lane[T]) -> bool:
        return self._fills_batch(lane.count, lane.cost)

    def _place(self, lane: Lane[T]) -> None:
        """Put a lane among those that are due, or among those that wait for more tasks."""
        lane.rank = rank_of(lane.head())
        until = lane.oldest_at() + self.batch_timeout if self.batch_timeout else lane.held_until
        if until == -math.inf or self._is_full(lane):
            self._held.discard(lane)
            self._due.put(lane, lane.rank)
        else:
            self._due.discard(lane)
            self._held.put(lane, until)

    def _next(self, now: float) -> Lane[T]:
        """Return the lane that goes next; one that still waits for more tasks if none is due."""
        while self._held and self._held.least <= now:
            lane = self._held.first
            self._held.discard(lane)
            self._due.put(lane, lane.rank)
        return self._due.first if self._due else self._held.first


def rank_of(item: Waiting) -> tuple[float, int]:
    """Return what tasks are ordered by: when they arrived, less what their priority is worth."""
    return item.arrived_at - item.priority * AGING, -item.priority


def _rank_of_head(level: deque[T]) -> tuple[float, int]:
    return rank_of(level[0])


def _skip_settled(level: deque[Any]) -> bool:
    while level and level[0].is_settled:
        level.popleft()
    return bool(level)
