"""The in-flight table of a worker: the batches that it has in hand, and how long its calls take."""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, Protocol, TypeVar

from ..wire.frames import FRAME_BUDGET

PREFETCH = 0.002
"""Seconds of work that a worker is given ahead. A batch that takes longer is handed out when the worker is free, or is
about to be, so that priorities, deadlines and cancellations stay exact where they matter; cheap ones travel many to a
frame."""

MAX_PREFETCH = 64
"""Calls of the handler that a worker is given tasks for at most."""


class Sendable(Protocol):
    """What a table holds.

    Attributes:
        is_waiting: Whether it is in a queue.
        holder: Process id of the worker that has it in hand; 0 while none has.
        sent_at: When it was sent to that worker.
    """

    is_waiting: bool
    holder: int
    sent_at: float

    @property
    def id(self) -> int:
        """Its number on the wire."""

    @property
    def is_settled(self) -> bool:
        """Whether its caller has the answer, or does not wait any more."""


T = TypeVar("T", bound=Sendable)


class InFlight(Generic[T]):
    """The batches that a worker has been sent and has not answered, and what their answers tell of its pace.

    Args:
        batch_size: The most tasks that one call of the handler gets.

    Attributes:
        batches: The tasks of each batch, the oldest batch first.
        calls: How many calls of the handler they take.
        head_since: Since when the oldest batch is the oldest.
        handled: Tasks that were answered.
        pace: Seconds that its last calls of the handler took.
        longest: Seconds that its longest call took; 0 as long as none was so long that it counts (`PREFETCH`).
        calls_per_batch: For how many calls tasks should travel together; more would wait for each other's answers.
    """

    def __init__(self, batch_size: int) -> None:
        self.batches: deque[list[T]] = deque()
        self.calls = 0
        self.head_since = 0.0
        self.handled = 0
        self.pace = PREFETCH
        self.longest = 0.0
        self.calls_per_batch = 1
        self._tasks = 0
        self._batch_size = batch_size
        self._deviation = 8 * PREFETCH  # unknown at first
        self._prefetch = 1
        self._answered = 0

    def __len__(self) -> int:
        """Return the number of tasks."""
        return self._tasks

    @property
    def free_calls(self) -> int:
        """For how many more calls of its handler the worker should get tasks now."""
        return self._prefetch - self.calls

    def put(self, tickets: list[T], pid: int, now: float) -> tuple[list[T], float, int]:
        """Add tasks that are sent together.

        Args:
            tickets: The tasks.
            pid: Process id of the worker.
            now: The time on the clock of ``time.monotonic``.

        Returns:
            The batch as `pack_batches` wants it.
        """
        if not self.batches:
            self.head_since = now
        self.batches.append(tickets)
        self._tasks += len(tickets)
        self.calls += self._calls(tickets)
        for ticket in tickets:
            ticket.is_waiting = False
            ticket.holder = pid
            ticket.sent_at = now
        return tickets, 0.0, self._batch_size

    def complete(self, duration: float, now: float, has_run: bool = True) -> tuple[list[T], float]:
        """Remove the oldest batch, which has been answered.

        Args:
            duration: Seconds of work it took.
            now: The time on the clock of ``time.monotonic``.
            has_run: Whether the handler was called. Tasks that have expired on their way come back at once, and would
                make a slow worker look like one that may be given dozens of tasks ahead.

        Returns:
            Its tasks, and the seconds of work for one call of the handler.
        """
        tickets = self._pop_batch()
        self.handled += len(tickets)
        self.head_since = now
        duration /= self._calls(tickets)
        if has_run:
            self._note_call(duration)
        return tickets, duration

    def restore(self, tickets: list[T]) -> None:
        """Put tasks back in front that were removed and have no answer: their worker is to die."""
        if tickets:
            self.batches.appendleft(tickets)
            self._tasks += len(tickets)
            self.calls += self._calls(tickets)

    def take_all(self, current: int) -> tuple[list[T], list[T], list[T]]:
        """Remove and return all tasks of a worker that is gone.

        Args:
            current: Id of the task with which its last call of the handler began.

        Returns:
            Those it had done without an answer, those of the call in which it died, and those it had not begun.
        """
        passed: list[T] = []
        while self.batches:
            tickets = self._pop_batch()
            for index, ticket in enumerate(tickets):
                if ticket.id == current:
                    end = index - index % self._batch_size + self._batch_size
                    untouched = tickets[end:]
                    while self.batches:
                        untouched += self._pop_batch()
                    return passed + tickets[:index], tickets[index:end], untouched
            passed += tickets
        return [], [], passed

    def is_abandoned(self) -> bool:
        """Tell whether all tasks of the oldest batch have ended without the worker; may be called in any thread."""
        batches = list(self.batches)  # a copy: the event loop goes on
        return bool(batches) and all(ticket.is_settled for ticket in batches[0])

    def free_at(self) -> float:
        """Return when the worker should be free, if it works on one call and its calls take a steady time.

        Returns:
            The time on the clock of ``time.monotonic``; infinity when that cannot be told.
        """
        is_steady = self._deviation < PREFETCH < self.pace
        return self.head_since + self.pace if is_steady and self.calls == 1 else math.inf

    def _calls(self, tickets: list[T]) -> int:
        return -(-len(tickets) // self._batch_size)

    def _pop_batch(self) -> list[T]:
        tickets = self.batches.popleft()
        self._tasks -= len(tickets)
        self.calls -= self._calls(tickets)
        return tickets

    def _note_call(self, duration: float) -> None:
        self._answered += 1
        pace = self.pace = duration if self._answered == 1 else self.pace + (duration - self.pace) / 8
        self._prefetch = MAX_PREFETCH if pace * MAX_PREFETCH <= PREFETCH else max(1, int(PREFETCH / pace))
        self.calls_per_batch = max(1, int(FRAME_BUDGET / pace)) if pace else MAX_PREFETCH
        if pace > PREFETCH:
            self._deviation += (abs(duration - pace) - self._deviation) / 8
            if duration > self.longest:
                self.longest = duration
