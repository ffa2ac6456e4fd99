"""The tickets of tasks whose callers are in API processes: what they receive goes back over the connection."""

from __future__ import annotations

from typing import Protocol

from ...reports import RawStep
from ..scheduling.outlet import Outlet, StreamTicket
from ..scheduling.ticket import Ticket
from ..wire.codec import Codec, Encoded

FOREVER = 1e8
"""Seconds that a consumer in an API process may leave an item unread: that process knows what its consumer has read,
and ends a stream that is late."""


class Answers(Protocol):
    """Sends what happens to tasks to the API process that has sent them."""

    def answer(self, task: int, content: Encoded, records: tuple[RawStep, ...]) -> None:
        """Send the result of a task, when `finish` is called: the task is not counted as ended yet.

        Args:
            task: The number that the API process has given it.
            content: The result; its blocks are lent from now on.
            records: The steps that it has visited.
        """

    def finish(self) -> None:
        """Send the results of tasks that have ended."""

    def fail(self, task: int, error: BaseException, records: tuple[RawStep, ...] = ()) -> None:
        """Send the error of a task.

        Args:
            task: As for `answer`.
            error: The error.
            records: The steps that it has visited.
        """

    def send_item(self, task: int, item: Encoded) -> None:
        """Send an item of a task; the hold on its blocks goes with it."""


class GuestReceiver:
    """Receives the end of a task for an API process.

    Args:
        answers: Sends it there.
        task: The number that the API process has given the task.

    Attributes:
        ticket: Its ticket; None when it is settled.
    """

    __slots__ = ("_answers", "_has_ended", "_task", "ticket")

    def __init__(self, answers: Answers, task: int) -> None:
        self.ticket: Ticket | None = None
        self._answers = answers
        self._task = task
        self._has_ended = False

    def done(self) -> bool:
        """Tell whether it has an end already, or none is wanted."""
        return self._has_ended

    def answer(self, content: Encoded, records: tuple[RawStep, ...]) -> None:
        """Send the result when the task has ended."""
        self.ticket = None
        self._answers.answer(self._task, content, records)

    def leave(self) -> None:
        """Want no end any more."""
        self._has_ended = True
        self.ticket = None

    def set_result(self, result: None) -> None:
        """Receive that the task has ended."""
        self._has_ended = True
        self._answers.finish()

    def set_exception(self, exception: BaseException) -> None:
        """Send why the task has failed."""
        self._has_ended = True
        ticket, self.ticket = self.ticket, None
        self._answers.fail(self._task, exception, () if ticket is None else ticket.metrics)


class GuestTicket(Ticket):
    """A task whose caller is in an API process. It is not decoded here."""

    __slots__ = ()

    def fill_in(self, codec: Codec, total_time: float) -> None:
        """Send the result."""
        receiver = self.receiver
        if isinstance(receiver, GuestReceiver) and not receiver.done():
            receiver.answer(self.content, self.metrics)


class GuestOutlet(Outlet):
    """Receives the items of a task for an API process.

    Args:
        answers: Sends them there.
        task: The number that the API process has given the task.

    Attributes:
        ticket: Its ticket; None when it is settled.
    """

    def __init__(self, answers: Answers, task: int) -> None:
        super().__init__(FOREVER)
        self.ticket: Ticket | None = None
        self._answers = answers
        self._task = task
        self._has_left = False

    def done(self) -> bool:
        """Tell whether it has an end already, or none is wanted."""
        return self._has_left or super().done()

    @property
    def is_over(self) -> bool:
        """Whether the stream must end: the API process decides, which knows what its consumer has taken."""
        return False

    def put(self, item: Encoded, weight: int, now: float) -> None:
        """Send an item."""
        self.has_items = True
        self.arrived_at = self.last_at = now
        self._answers.send_item(self._task, item)

    def take(self, weight: int) -> None:
        """Note what the consumer has taken, by its weight."""
        self.consumed += weight

    def answer(self, content: Encoded, records: tuple[RawStep, ...]) -> None:
        """Send the result when the task has ended."""
        self.ticket = None
        self._answers.answer(self._task, content, records)

    def set_result(self, result: None) -> None:
        """Receive that the task has ended."""
        self._has_left = True
        self._answers.finish()

    def leave(self) -> None:
        """Want no item and no end any more."""
        self._has_left = True
        self.ticket = None

    def set_exception(self, exception: BaseException) -> None:
        """Send why the task has failed."""
        self._has_left = True
        ticket, self.ticket = self.ticket, None
        self._answers.fail(self._task, exception, () if ticket is None else ticket.metrics)


class GuestStreamTicket(StreamTicket):
    """A task whose caller, in an API process, wants its items."""

    __slots__ = ()

    def fill_in(self, codec: Codec, total_time: float) -> None:
        """Send the result."""
        outlet = self.receiver
        if isinstance(outlet, GuestOutlet) and not outlet.done():
            outlet.answer(self.content, self.metrics)
