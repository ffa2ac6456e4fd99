"""Describes where a task was when its deadline passed, for messages."""

from __future__ import annotations

from ..memory.status_page import StatusPage
from ..wire.frames import Status
from ..workers.handle import WorkerHandle
from .stage import Stage
from .ticket import Ticket


def whereabouts(stage: Stage, ticket: Ticket, status_page: StatusPage, now: float) -> str:
    """Describe where a task is that has no answer.

    Args:
        stage: The step that it waits for or is worked on by.
        ticket: The task.
        status_page: Tells what each worker works on.
        now: The time on the clock of ``time.monotonic``.
    """
    if not ticket.holder:
        return _waiting(stage, ticket, now)
    where = f"in the hands of step {stage.name} (pid {ticket.holder}) for {now - ticket.sent_at:.3f} s"
    worker = next((worker for worker in stage.tasked_workers() if worker.pid == ticket.holder), None)
    if worker is None or worker.in_flight.has_begun(ticket, status_page.task_of(worker.region)):
        return where
    return f"{where}, not begun: {len(worker.in_flight) - 1} other tasks were in the same hands"


def outside(stage: Stage) -> str:
    """Describe where a task was that got no place in the queue of a step."""
    return f"waiting for a place in the queue of step {stage.name}, where {stage.queue.count} tasks wait"


def late_answer(worker: WorkerHandle, ticket: Ticket, status: int, duration: float, now: float) -> str:
    """Describe where a task was whose answer came after its deadline.

    Args:
        worker: The worker that has answered.
        ticket: The task.
        status: How the worker ended its work on it.
        duration: Seconds that the call of the handler took.
        now: The time on the clock of ``time.monotonic``.
    """
    where = f"in the hands of step {worker.name} (pid {worker.pid}) for {now - ticket.sent_at:.3f} s"
    if status == Status.EXPIRED:
        return f"{where}, not begun when its deadline passed"
    return f"{where}, and its answer came {now - ticket.deadline:.3f} s late; its handler took {duration:.3f} s"


def _waiting(stage: Stage, ticket: Ticket, now: float) -> str:
    others = stage.queue.count - ticket.is_waiting
    held = sum(len(worker.in_flight) for worker in stage.tasked_workers())
    return (
        f"waiting for step {stage.name} for {now - ticket.arrived_at:.3f} s, where {others} others wait and "
        f"workers have {held} tasks in hand"
    )
