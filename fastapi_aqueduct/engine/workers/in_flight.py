"""The in-flight table of a worker: the numbered batches that it has in hand, and how long its calls take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Sized
from typing import Generic, Protocol, TypeVar

from ..wire.frames import FRAME_BUDGET, ProtocolError
from .integral import Integral

PREFETCH = 0.002
"""Seconds of work that a worker is given ahead. A batch that takes longer is handed out when the worker is free, or is
about to be, so that priorities, deadlines and cancellations stay exact where they matter; cheap ones travel many to a
frame."""

MAX_PREFETCH = 64
"""Calls of the handler that a worker is given tasks for at most."""


NUMBERS = 1 << 32
"""How many numbers of batches there are: a number takes 4 bytes on the wire."""


class Answer(Protocol):
    """What a worker sends back for a task."""

    @property
    def id(self) -> int:
        """The number of the task."""


class Sendable(Protocol):
    """What a table holds.

    Attributes:
        is_waiting: Whether it is in a queue.
        holder: Process id of the worker that has it in hand; 0 while none has.
        sent_at: When it was sent to that worker.
        deaths: How many workers have died with it in hand.
    """

    deaths: int
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

Outgoing = tuple[list[T], float, int, int]
"""A batch on its way to a worker, as `pack_batches` packs it: tasks, duration, size and number."""


class InFlight(Generic[T]):
    """The batches that a worker has been sent and has not answered, and what the answers tell of its pace.

    An answer names its batch. It may be for a part of the batch, and answers may come in any order.

    Args:
        batch_size: The most tasks that one call of the handler gets.
        places: Calls that the worker has under way at once; 0: one after the other, and as many tasks ahead as its pace
            allows.
        sends_ahead: Whether the worker is on another machine and gets a full batch while it works on one; no others,
            and only one call at a time.

    Attributes:
        calls: How many calls of the handler they take.
        places: As given.
        occupied: Seconds for which calls side by side have taken places, added up over the places.
        head_since: When the last answer came, or the first batch was put into the empty table, on the clock of
            ``time.monotonic``.
        handled: Tasks that were answered.
        pace: Seconds that its last calls of the handler took.
        longest: Seconds that its longest call took; 0 as long as none was so long that it counts (`PREFETCH`).
        prefetch: For how many calls it should have tasks in hand.
        calls_per_batch: For how many calls tasks should travel together; more would wait for each other's answers.
    """

    def __init__(self, batch_size: int, places: int = 0, sends_ahead: bool = False) -> None:
        self.calls = 0
        self.head_since = 0.0
        self.handled = 0
        self.pace = PREFETCH
        self.longest = 0.0
        self.prefetch = places or 1
        self.calls_per_batch = places or 1
        self._batches: dict[int, list[T]] = {}  # as they were sent, by number, the oldest first
        self._left: dict[int, dict[int, T]] = {}  # of each that is answered in part: what has no answer, by id
        self._refused: list[T] = []
        self._number = 0
        self._tasks = 0
        self._batch_size = batch_size
        self._deviation = 8 * PREFETCH  # unknown at first
        self.places = places
        self._sends_ahead = sends_ahead
        self._is_suspicious = False  # whether it has a task in hand that may have killed another worker
        self.occupied = Integral()
        self._answered = 0

    def __len__(self) -> int:
        """Return the number of tasks."""
        return self._tasks

    def put(self, tickets: list[T], pid: int, now: float) -> Outgoing[T]:
        """Add tasks that are sent together.

        Args:
            tickets: The tasks.
            pid: Process id of the worker.
            now: The time on the clock of ``time.monotonic``.

        Returns:
            The batch that is to be sent.
        """
        if not self._batches:
            self.head_since = now
        number = self._number = (self._number + 1) % NUMBERS
        for ticket in tickets:
            ticket.is_waiting = False
            ticket.holder = pid
            ticket.sent_at = now
        if self._sends_ahead and (tickets[0].deaths or not self._batches):
            # Its answer may be lost with the worker if the next call ends that at once: it would be blamed.
            self._is_suspicious = tickets[0].deaths > 0
        self._batches[number] = tickets
        self._tasks += len(tickets)
        self.calls += self._calls(tickets)
        if self.places:
            self.occupied.set(self.calls, now)
            if tickets[0].deaths:
                self.prefetch = 1  # no other task joins one that may have killed a worker
        return tickets, 0.0, self._batch_size, number

    def complete(
        self, number: int, answers: Sequence[Answer], duration: float, now: float, has_run: bool = True
    ) -> tuple[list[T], float, int, int]:
        """Remove the tasks that have been answered.

        Args:
            number: The number of their batch.
            answers: The answers.
            duration: Seconds of work they took.
            now: The time on the clock of ``time.monotonic``.
            has_run: Whether the handler was called. Tasks that have expired on their way come back at once, and would
                make a slow worker look like one that may be given dozens of tasks ahead.

        Returns:
            The tasks in the order of the answers, the seconds of work for one call of the handler, the number of tasks
            of one call, some of which may have been answered before or not yet, and the number of calls that have ended
            with these answers.

        Raises:
            ProtocolError: There is no such batch, or no such task in it; nothing is removed.
        """
        tickets = self._batches.get(number)
        if tickets is None:
            raise ProtocolError(f"an answer to batch {number}, which it does not have")
        size = min(len(tickets), self._batch_size)
        before = self.calls
        if number not in self._left and _are_whole(tickets, answers):
            del self._batches[number]
            calls = self._calls(tickets)
            self.calls -= calls
        else:
            tickets = self._pick(number, answers)
            calls = self._calls(tickets)
        self._tasks -= len(tickets)
        self.handled += len(tickets)
        if self.places:
            self.occupied.set(self.calls, now)
            if not self._batches:
                self.prefetch = self.places
        self.head_since = now
        duration /= calls
        ended = before - self.calls
        if has_run and ended:  # an early answer is a part of a call that goes on
            # Of calls under way at once the worker measures the handler's time, and not that until a place is free.
            self._note_call(now - tickets[0].sent_at if self.places else duration)
        return tickets, duration, size, ended

    def _pick(self, number: int, answers: Sequence[Answer]) -> list[T]:
        """Remove some tasks of a batch."""
        before = self._left.get(number) or {ticket.id: ticket for ticket in self._batches[number]}
        left = before.copy()
        tickets: list[T] = []
        for answer in answers:
            ticket = left.pop(answer.id, None)
            if ticket is None:
                raise ProtocolError(f"an answer to task {answer.id}, which it does not have in batch {number}")
            tickets.append(ticket)
        if not tickets:
            raise ProtocolError(f"an answer to no task of batch {number}")
        if left:
            self._left[number] = left
        else:
            del self._batches[number]
            self._left.pop(number, None)
        self.calls -= self._calls(before) - self._calls(left)
        return tickets

    def restore(self, tickets: list[T]) -> None:
        """Take tasks back that were removed and whose answers make no sense; the worker is to die for it."""
        self._refused += tickets
        self._tasks += len(tickets)

    def take_all(self, current: int) -> tuple[list[T], list[T], list[T]]:
        """Remove and return all tasks of a worker that is gone.

        The worker makes one call after the other, in the order of the batches. Of a batch that is answered in part all
        tasks count as begun.

        Args:
            current: Id of the task with which its last call of the handler began.

        Returns:
            Those it had begun in other calls, those of the call in which it died (and those that were restored), and
            those it had not begun.
        """
        if self.places:
            return self._take_all_concurrent(current)
        begun: list[T] = []
        in_hand, self._refused = self._refused, []
        untouched: list[T] = []
        for number, sent in self._batches.items():
            left = self._left.get(number)
            call = range(0)
            for index, ticket in enumerate(sent):
                if ticket.id == current:
                    start = index - index % self._batch_size
                    call = range(index, start + self._batch_size)
                    begun += untouched
                    untouched = []
            for index, ticket in enumerate(sent):
                if left is not None and ticket.id not in left:
                    continue
                if index in call:
                    in_hand.append(ticket)
                elif left is not None or index < call.start:
                    begun.append(ticket)
                else:
                    untouched.append(ticket)
        self._batches.clear()
        self._left.clear()
        self._tasks = self.calls = 0
        return begun, in_hand, untouched

    def _take_all_concurrent(self, current: int) -> tuple[list[T], list[T], list[T]]:
        """As `take_all`: all calls have begun, and one had its turn. If that is not known, each may have been it."""
        left: list[T] = []
        for number, sent in self._batches.items():
            left += self._left[number].values() if number in self._left else sent
        in_hand = [ticket for ticket in left if ticket.id == current] or left
        begun = [ticket for ticket in left if ticket.id != current] if in_hand is not left else []
        in_hand, self._refused = in_hand + self._refused, []
        self._batches.clear()
        self._left.clear()
        self._tasks = self.calls = 0
        return begun, in_hand, []

    def has_begun(self, ticket: T, current: int) -> bool:
        """Tell whether the worker has begun a task.

        Args:
            ticket: The task.
            current: Id of the task with which its last call of the handler began.
        """
        if self.places:
            return True
        is_here = False
        for sent in self._batches.values():
            for start in range(0, len(sent), self._batch_size):
                call = sent[start : start + self._batch_size]
                is_here = is_here or ticket in call
                if any(other.id == current for other in call):
                    return is_here
        return False

    def tickets(self) -> Iterator[T]:
        """Yield its tasks."""
        for number, sent in self._batches.items():
            yield from self._left[number].values() if number in self._left else sent

    def is_awaited(self) -> bool:
        """Tell whether a caller waits for any of its tasks."""
        return any(not ticket.is_settled for ticket in self.tickets())

    def is_abandoned(self) -> bool:
        """Tell whether all tasks of the oldest batch have ended without the worker; may be called in any thread."""
        batches = list(self._batches.values())  # a copy: the event loop goes on
        return bool(batches) and all(ticket.is_settled for ticket in batches[0])

    def free_at(self) -> float:
        """Return when the worker should be free for a full batch: when its one call ends, if calls take a steady time.

        A worker on another machine is free for one while it works on another one.

        Returns:
            The time on the clock of ``time.monotonic``; infinity when that cannot be told.
        """
        if self._sends_ahead:
            return -math.inf if self.calls <= 1 and not self._is_suspicious else math.inf
        is_steady = not self.places and self._deviation < PREFETCH < self.pace
        return self.head_since + self.pace if is_steady and self.calls == 1 else math.inf

    def _calls(self, tickets: Sized) -> int:
        return -(-len(tickets) // self._batch_size)

    def _note_call(self, duration: float) -> None:
        self._answered += 1
        pace = self.pace = duration if self._answered == 1 else self.pace + (duration - self.pace) / 8
        if self.places:
            return
        if not self._sends_ahead:
            self.prefetch = MAX_PREFETCH if pace * MAX_PREFETCH <= PREFETCH else max(1, int(PREFETCH / pace))
            self.calls_per_batch = max(1, int(FRAME_BUDGET / pace)) if pace else MAX_PREFETCH
        if pace > PREFETCH:
            self._deviation += (abs(duration - pace) - self._deviation) / 8
            if duration > self.longest:
                self.longest = duration


def _are_whole(tickets: Sequence[Sendable], answers: Sequence[Answer]) -> bool:
    """Tell whether a batch is answered as a whole and in its order, as nearly always."""
    if len(tickets) != len(answers):
        return False
    for ticket, answer in zip(tickets, answers, strict=True):
        if ticket.id != answer.id:
            return False
    return True
