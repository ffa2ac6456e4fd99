"""A task while the dispatcher owns it."""

from __future__ import annotations

import asyncio

from ..task import BaseTask
from .codec import Encoded
from .frames import Status


class Record:
    """A task that the dispatcher owns.

    Attributes:
        id: Its number on the wire.
        task: The caller's object.
        future: What the caller waits for.
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

    # On the class, because most tasks never change them, or they are set with the first step.
    step = 0
    arrived_at = 0.0
    sent_at = 0.0
    holder = 0
    deaths = 0
    is_waiting = False
    is_settled = False
    metrics: tuple[tuple[str, float, float, int], ...] = ()
    status = int(Status.OK)

    def __init__(
        self,
        id: int,
        task: BaseTask,
        future: asyncio.Future[None],
        content: Encoded,
        priority: int,
        deadline: float,
        now: float,
    ) -> None:
        self.id = id
        self.task: BaseTask | None = task
        self.future = future
        self.content = content
        self.priority = priority
        self.deadline = deadline
        self.started_at = now
        self.span: dict[int, Record]
