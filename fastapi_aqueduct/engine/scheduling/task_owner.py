"""The owner of tasks, as those see it who move them from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .ticket import Ticket


class TaskOwner(Protocol):
    """Queues tasks, and settles each exactly once: the dispatcher."""

    def enqueue(self, ticket: Ticket, step: int, now: float) -> None:
        """Queue a task for a step.

        Args:
            ticket: Its ticket.
            step: Index of the step.
            now: The time on the clock of ``time.monotonic``, as in the following.
        """

    def finish(self, ticket: Ticket, now: float) -> None:
        """End a task whose last step has answered."""

    def is_over(self, ticket: Ticket, now: float) -> bool:
        """Tell whether the deadline of a task has passed; a pause of the process moves it."""

    def end_late(self, ticket: Ticket, where: str, now: float) -> None:
        """End a task whose deadline has passed.

        Args:
            ticket: Its ticket.
            where: How its answer came too late, in words; empty if none has come.
            now: As above.
        """

    def end_failed(self, ticket: Ticket, make_error: Callable[[], Exception]) -> None:
        """End a task with an error, or each of those that share a run with an error of its own."""

    def settle(self, ticket: Ticket, outcome: str, error: Exception | None) -> None:
        """End a task with an outcome and an error."""

    def retract(self, ticket: Ticket) -> None:
        """Take a settled ticket out of its queue, drop its blocks, and cancel it in the hands of a worker."""
