"""The interface between the engine and a tracing system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class TaskSpans(Protocol):
    """The spans of one task: one for each wait in a queue, and one for each time that a worker has it in hand.

    All times are on the clock of ``time.monotonic``.

    Attributes:
        is_recorded: Whether there are spans; else only the context of the trace travels.
    """

    is_recorded: bool

    @property
    def parent(self) -> bytes:
        """The trace context in which the task was sent, in the form of `send`."""

    def send(self, task: int, step: str, pid: int, waiting_since: float, now: float, first: Any) -> bytes:
        """End the wait in a queue, and begin the span of a step: the task goes to a worker.

        Args:
            task: Id of the task.
            step: Name of the step.
            pid: Process id of the worker.
            waiting_since: When the task arrived at the step.
            now: When it was sent.
            first: The spans of the first recorded task of the same call of the handler; None if it is this one.

        Returns:
            The trace context for the worker.
        """

    def answer(self, size: int, duration: float, now: float) -> None:
        """Note the answer of the worker.

        Args:
            size: Number of tasks in the call of the handler.
            duration: Seconds that the call took.
            now: When the answer came.
        """

    def lose(self, error: Exception) -> None:
        """End the span of a step whose worker has died; the task waits in the queue again."""

    def branch(self, name: str) -> TaskSpans:
        """Return the spans of a branch, while the task is in a group: the same ones each time.

        Args:
            name: The names of its steps.
        """

    def note_item(self) -> None:
        """Note an item of a stream."""

    def end(self, step: str, waiting_since: float | None, outcome: str, error: BaseException | None) -> None:
        """End the span that is open: the task is settled.

        Args:
            step: Name of the step where it was.
            waiting_since: When it arrived there, if it waits in the queue; None if a worker has it or has answered.
            outcome: How it has ended.
            error: Its error; None for a success, and for a caller that does not wait any more.
        """


BeginSpans = Callable[[], TaskSpans | None]
"""Returns the spans of a task that is sent in the present context; None if it is not traced."""
