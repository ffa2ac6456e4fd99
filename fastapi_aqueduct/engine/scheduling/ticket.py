"""A task while the dispatcher owns it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from ...task import BaseTask
from ..wire.codec import Encoded
from ..wire.frames import Status


class Receiver(Protocol):
    """Gets the end of a task whose caller is in another thread; an event loop's own future serves the others.

    Attributes:
        started_at: When the call began, on the clock of ``time.monotonic``.
    """

    started_at: float

    def done(self) -> bool:
        """Tell whether it has got it, or does not want it any more."""

    def set_result(self, result: None) -> None:
        """Take that the task is done."""

    def set_exception(self, error: BaseException) -> None:
        """Take why it is not."""


# Slots: a full queue holds thousands of these, and each is read and written dozens of times.
@dataclass(slots=True, eq=False)
class Ticket:
    """A task that the dispatcher owns.

    Attributes:
        id: Its number on the wire.
        task: The caller's object.
        future: What the caller waits for; None once it is settled. It keeps the exception it was given, whose frames
            refer to the task.
        content: The task as it travels; its blocks are held as long as it is here.
        priority: Level of the queues.
        span: Where its deadline is noted.
        deadline: On the clock of ``time.monotonic``.
        step: The step it waits for or is worked on by.
        arrived_at: When it arrived at that step.
        sent_at: When it was handed to a worker.
        started_at: When it arrived at the flow.
        holder: Process id of the worker that holds it; 0 while none does.
        deaths: How many workers have died with it in their hands.
        metrics: What the steps so far have cost, as for `StepMetrics`.
        is_waiting: Whether it is in the queue of its step.
        is_settled: Whether the caller has its answer; a worker may still hold the task then.
    """

    id: int
    task: BaseTask | None
    future: asyncio.Future[None] | Receiver | None
    content: Encoded
    priority: int
    deadline: float
    started_at: float
    step: int = 0
    arrived_at: float = 0.0
    sent_at: float = 0.0
    holder: int = 0
    deaths: int = 0
    metrics: tuple[tuple[str, float, float, int], ...] = ()
    is_waiting: bool = False
    is_settled: bool = False
    span: dict[int, Ticket] = field(init=False)
    status: ClassVar[int] = int(Status.OK)
    extras: ClassVar[bytes] = b""
