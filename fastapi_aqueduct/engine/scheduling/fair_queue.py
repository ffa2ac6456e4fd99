"""The queue of the first step of a flow that tenants share: its tasks go by priority, then by tenant, then by key."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Set
from heapq import nlargest
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from .marked_queue import Marked, MarkedQueue
from .queue import AGING, BatchQueue
from .ranking import Ranking
from .turns import Owned, Turns


class Sharing(Marked, Owned, Protocol):
    """What can wait in a queue that tenants share."""


T = TypeVar("T", bound=Sharing)


class Line(Generic[T]):
    """The tasks of one key, of all tenants. It exists while there are any.

    Attributes:
        tasks: The tasks in the order of their arrival.
        cost: What they cost together.
        calls: For how many calls of the handler they are.
    """

    __slots__ = ("calls", "cost", "tasks")

    def __init__(self) -> None:
        self.tasks: OrderedDict[T, None] = OrderedDict()
        self.cost = 0
        self.calls = 0


class FairQueue(MarkedQueue[T]):
    """The tasks that wait for a step, by tenant; see `Turns`.

    Waiting raises a priority as in any queue. What counts is for how long the tenant of a task was not served at its
    level: a tenant that has many tasks wait does not overtake others by that.

    The first task of a batch chooses its key, and the tenants take turns for the other places.

    Args:
        batch_size: The most tasks in a batch.
        batch_timeout: Seconds from the arrival of the oldest task of a key until a batch goes that is not full.
        priorities: Number of priority levels.
        limit: The most tasks of one tenant that may wait in each level. Callers observe it; the queue does not.
        is_keyed: Whether only tasks of one batch key share a batch.
        most_cost: What the tasks of a batch may cost together; one that costs more goes alone.

    Attributes:
        limit: As given.
    """

    def __init__(
        self,
        batch_size: int,
        batch_timeout: float,
        priorities: int,
        limit: int,
        is_keyed: bool = False,
        most_cost: float = math.inf,
    ) -> None:
        super().__init__(batch_size, batch_timeout, priorities, most_cost)
        self.limit = limit
        self._is_keyed = is_keyed
        self._is_plain = not is_keyed and most_cost == math.inf
        self._turns: list[Turns[T]] = [Turns(is_keyed, most_cost) for _ in range(priorities)]
        self._lines: dict[bytes, Line[T]] = {}  # by key
        self._due: Ranking[float, bytes] = Ranking()  # the keys by when a batch of each goes

    @property
    def tenants(self) -> int:
        """How many tenants have tasks in the queue; one that has some in several levels counts for each."""
        return sum([turns.tenants for turns in self._turns])

    def waiting_of(self, level: int, tenant: bytes) -> int:
        """Count the tasks of a tenant that wait in one level."""
        return self._turns[level].waiting(tenant)

    def calls(self, more: int = 0) -> int:
        """Count the calls of the handler that the tasks take; further ones join them if they need no key."""
        return BatchQueue.calls(self, more) if self._is_plain else super().calls(more)

    def calls_before(self, level: int, tenant: bytes, weight: float) -> int:
        """Estimate the calls of the handler until the one that has the next task that a tenant adds.

        Args:
            level: The level of its priority.
            tenant: The tenant.
            weight: Its weight.
        """
        ahead = self.ahead(level, tenant, weight)
        if not self._is_plain:
            return 1 + -(-ahead * self.calls() // max(1, self.count))
        return -(-(ahead + 1) // self.batch_size)

    def head(self, now: float) -> T:
        """Return the first task of the next batch. The queue must not be empty."""
        found = self._alone[0] if self.has_alone else self._next(now, self._due_key(now))
        assert found is not None
        return found

    def is_next_full(self, now: float) -> bool:
        """Tell whether no task could join the next batch any more."""
        if not self._lines or self.has_alone:
            return self.count >= self.batch_size and not self._is_keyed
        return self._is_full(self._line(self.head(now)))

    def next_size(self, now: float) -> int:
        """Count the tasks of the next batch; what they cost is taken for that of all tasks of their key."""
        if not self._lines or self.has_alone:
            return min(self.count, 1)
        line = self._line(self.head(now))
        count = len(line.tasks)
        affordable = count if line.cost <= self._most_cost else int(count * self._most_cost / line.cost)
        return max(1, min(affordable, self.batch_size))

    def ahead(self, level: int, tenant: bytes, weight: float) -> int:
        """Estimate how many tasks go before the next one that a tenant adds.

        Args:
            level: The level of its priority.
            tenant: The tenant.
            weight: Its weight.
        """
        higher = sum([turns.count for turns in self._turns[level + 1 :]])
        return min(self.count, len(self._alone) + higher + self._turns[level].ahead(tenant, weight))

    def busiest(self, most: int) -> list[tuple[int, bytes, float, int]]:
        """List the tenants that have the most tasks at a level: the level, the name, the weight, and the number.

        Args:
            most: The most entries.
        """
        entries = [(level, *entry) for level, turns in enumerate(self._turns) for entry in turns.entries()]
        return nlargest(most, entries, key=itemgetter(3))

    def tasks(self) -> Iterator[T]:
        """Yield the tasks that wait, in no order."""
        yield from super().tasks()
        for line in self._lines.values():
            yield from line.tasks

    def push(self, item: T) -> None:
        """Add a task behind those of its tenant at its priority, which must be a level."""
        self._turns[item.priority].push(item)
        self._note_come(item)
        self._count(item, 1)

    def push_front(self, item: T) -> None:
        """Put a task back in front of all others at its priority: its worker has died and had not begun it."""
        self._turns[item.priority].push_front(item)
        self._note_come(item)
        line = self._line(item)
        line.tasks.move_to_end(item, last=False)
        self._due.put(self._key(item), self._due_at(line))
        self._count(item, 1)

    def discard(self, item: T) -> None:
        """Remove a task that is settled."""
        if self._turns[item.priority].remove(item):
            self._note_gone(item)
        # Otherwise it is one that goes alone, and is skipped when it comes to the front.
        self._count(item, -1)
        if not self.count:
            self._alone.clear()

    def oldest_at(self) -> float:
        """Return when the task arrived that has waited longest. The queue must not be empty."""
        times = [next(iter(line.tasks)).arrived_at for line in self._lines.values()]
        return min(times + [self._alone[0].arrived_at] if self.has_alone else times)

    def due_at(self) -> float:
        """Return when the next batch should go; a time in the past means now. The queue must not be empty."""
        if self.has_alone:
            return self._alone[0].arrived_at
        return self._due.least

    def pop_batches(self, now: float, calls: int) -> list[T]:
        """Remove and return the next batches, for ``calls`` calls of the handler; only the last may be short."""
        batch = self.pop_batch(now)
        for _ in range(calls - 1 if self._is_plain else 0):
            if len(batch) % self.batch_size or not self.count or self._alone:
                break
            batch += self.pop_batch(now)
        return batch

    def pop_batch(self, now: float, held: Set[bytes] = frozenset()) -> list[T]:
        """Remove and return the next batch: by priority, which waiting raises, then by the turns of the tenants.

        Args:
            now: The time.
            held: Tenants whose tasks stay. The others go at once, by when each was served last, and that costs them no
                turn: those that stay could not have gone.
        """
        if self.has_alone:
            alone = next((item for item in self._alone if not item.is_settled and item.marks.tenant not in held), None)
            if alone is not None:
                self._alone.remove(alone)
                self._count(alone, -1)
                return [alone]
        batch: list[T] = []
        key, cost = None if held else self._due_key(now), 0
        while len(batch) < self.batch_size and (found := self._next(now, key, held)) is not None:
            cost += found.marks.cost
            if batch and cost > self._most_cost:
                break
            self._turns[found.priority].take(found, now, pays=not held)
            self._note_gone(found)
            self._count(found, -1)
            batch.append(found)
            if self._is_keyed:
                key = found.marks.batch_key
        return batch

    def _next(self, now: float, key: bytes | None, held: Set[bytes] = frozenset()) -> T | None:
        """Return the next task; with a key, the next one that has it.

        A lower level goes before a higher one only for the tenant that was not served for so long.
        """
        if held:
            return self._next_of_others(now, key, held)
        levels = [level for level, turns in enumerate(self._turns) if turns.has(key)]
        if not levels:
            return None
        highest = levels[-1]
        if len(levels) == 1 or key is not None:
            return self._turns[highest].peek(key)
        urgent = max(levels, key=lambda level: (level + (now - self._turns[level].since) / AGING, level))
        turns = self._turns[urgent]
        return turns.peek() if urgent == highest else turns.peek_starving()

    def _next_of_others(self, now: float, key: bytes | None, held: Set[bytes]) -> T | None:
        found: list[tuple[float, int, T]] = []
        for level, turns in enumerate(self._turns):
            tenant = turns.first_of_others(key, held)
            if tenant is not None:
                found.append((level + (now - tenant.since) / AGING, level, tenant.head(key)))
        return max(found, key=itemgetter(0, 1))[2] if found else None

    def _due_key(self, now: float) -> bytes | None:
        """Return the key of the next batch; None if the next task may choose it."""
        if not self._is_keyed or not self.batch_timeout:
            return None
        first = self._next(now, None)
        if first is None or self._due_at(self._line(first)) <= now:
            return None
        return self._due.first

    def _due_at(self, line: Line[T]) -> float:
        oldest = next(iter(line.tasks)).arrived_at
        return oldest if self._is_full(line) else oldest + self.batch_timeout

    def _is_full(self, line: Line[T]) -> bool:
        return self._fills_batch(len(line.tasks), line.cost)

    def _key(self, item: T) -> bytes:
        return item.marks.batch_key if self._is_keyed else b""

    def _line(self, item: T) -> Line[T]:
        return self._lines[self._key(item)]

    def _note_come(self, item: T) -> None:
        key = self._key(item)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line()
        line.tasks[item] = None
        line.cost += item.marks.cost
        self._note_change(key, line)

    def _note_gone(self, item: T) -> None:
        key = self._key(item)
        line = self._lines[key]
        del line.tasks[item]
        line.cost -= item.marks.cost
        self._note_change(key, line)

    def _note_change(self, key: bytes, line: Line[T]) -> None:
        calls = self._calls_of(len(line.tasks), line.cost)
        self._calls += calls - line.calls
        line.calls = calls
        if line.tasks:
            self._due.put(key, self._due_at(line))
        else:
            del self._lines[key]
            self._due.discard(key)

    def _count(self, item: T, tasks: int) -> None:
        self._counts[item.priority] += tasks
        self.count += tasks
