"""The ticket: a task while the dispatcher owns it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from ...reports import RawStep
from ...runtime import set_runtime
from ...task import BaseTask
from ..marks import NO_MARKS, Marks
from ..wire.codec import Codec, Encoded
from ..wire.frames import Status

IN_RUN = -1
"""The holder of a task that waits for a run which it shares with others; no process has this number."""


class Receiver(Protocol):
    """Receives the end of a task: an asyncio future of its caller, or a call that another thread has handed over.

    A ticket calls one of the two setters, once, and neither when `done` is true.
    """

    def done(self) -> bool:
        """Tell whether it has an end already, or does not wait for one any more."""

    def set_result(self, result: None, /) -> None:
        """Receive that the task is done and filled in."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Receive why the task has failed."""


class Branches(Protocol):
    """The branches of a task that is in a group."""

    def open(self) -> Iterator[Any]:
        """Yield the tickets that wait for a step or are in a worker's hands, also of groups in the branches."""

    def postpone(self, seconds: float) -> None:
        """Move the deadlines by a pause of the process."""

    def share(self, weight: int) -> list[tuple[Ticket, int]]:
        """Divide what the consumer of a stream has taken among the branches that have sent it."""

    def records(self) -> tuple[RawStep, ...]:
        """Return the times of the steps that have answered, in the order of their answers."""


# Slots: a full queue holds thousands of these, and each is read and written dozens of times.
@dataclass(slots=True, eq=False)
class Ticket:
    """A task that the dispatcher owns.

    Attributes:
        id: Its number on the wire.
        task: The caller's object.
        receiver: Receives its end; None once it is settled: it keeps the exception it was given, whose frames refer to
            the task.
        content: The task as it travels; its blocks are held as long as it is here.
        priority: Level of the queues.
        period: The tickets whose deadlines lie in the same period; for `Deadlines` alone.
        deadline: On the clock of ``time.monotonic``.
        step: The step it waits for or is worked on by.
        arrived_at: When it arrived at that step.
        sent_at: When it was sent to a worker.
        started_at: When it arrived at the flow.
        marks: What is to be known of it while it waits for its step.
        is_handed: Whether its caller is in another thread, and outlives the event loop of the dispatcher.
        holder: Process id of the worker that holds it; `IN_RUN` while it waits for a run that it shares; else 0.
        deaths: How many of these deaths count as its own: not the first one if other tasks were in the same hands.
        is_suspect: Whether a worker has died with it in hand.
        metrics: The times of the steps so far, as for `StepRecord`.
        is_waiting: Whether it is in the queue of its step.
        is_settled: Whether the caller has its answer; a worker may still hold the task then.
        group: Its branches while it is in a group.
        is_branch: Whether it is a branch of another one.
    """

    id: int
    task: BaseTask | None
    receiver: Receiver | None
    content: Encoded
    priority: int
    deadline: float
    started_at: float
    marks: Marks = NO_MARKS
    is_handed: bool = False
    step: int = 0
    arrived_at: float = 0.0
    sent_at: float = 0.0
    holder: int = 0
    deaths: int = 0
    is_suspect: bool = False
    metrics: tuple[RawStep, ...] = ()
    is_waiting: bool = False
    is_settled: bool = False
    group: Branches | None = None
    period: dict[int, Ticket] = field(init=False)
    status: ClassVar[int] = int(Status.OK)
    is_branch: ClassVar[bool] = False

    def fill_in(self, codec: Codec, total_time: float) -> None:
        """Give the caller the result, before the receiver gets the end.

        Args:
            codec: Decodes the content.
            total_time: Seconds since the task arrived at the flow.

        Raises:
            Exception: An error of unpickling a user's object; the task is unchanged then.
        """
        assert self.task is not None
        codec.decode_into(self.task, self.content)
        set_runtime(self.task, "metrics", (self.metrics, total_time))

    @property
    def root(self) -> Ticket:
        """The ticket of the whole task: this one, unless it is a branch."""
        return self

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that it is in, in words, the outermost first."""
        return ()

    def in_hands_of(self, pid: int, step: int) -> Ticket | None:
        """Return what of the task a worker has in hand: the ticket itself or a branch; None if that is nothing.

        Args:
            pid: Process id of the worker.
            step: Index of its step.
        """
        if self.group is None:
            return self if self.holder == pid else None
        return next((branch for branch in self.group.open() if branch.holder == pid and branch.step == step), None)

    @property
    def has_items(self) -> bool:
        """Whether its caller has received a part of its result, so it must not run again."""
        return False

    def item_age(self, now: float) -> float | None:
        """Return the seconds since its last item; None if there was none."""
        return None

    def postpone(self, seconds: float) -> None:
        """Move the deadline by a pause of the process."""
        self.deadline += seconds
        if self.group is not None:
            self.group.postpone(seconds)

    def is_late(self, now: float) -> bool:
        """Tell whether its deadline has passed."""
        return now >= self.deadline
