"""Says in words where a task was when its deadline passed."""

from __future__ import annotations

from ..memory.arena import Arena
from ..wire.frames import Status
from ..workers.handle import WorkerLink
from .stage import StepDesk
from .ticket import Record


def whereabouts(desk: StepDesk, record: Record, arena: Arena, now: float) -> str:
    """Say where a task is that has no answer.

    Args:
        desk: The step that it waits for or is worked on by.
        record: The task.
        arena: Its status page tells what each worker works on.
        now: The time on the clock of ``time.monotonic``.
    """
    if not record.holder:
        return _waiting(desk, record, now)
    where = f"in the hands of step {desk.name} (pid {record.holder}) for {now - record.sent_at:.3f} s"
    link = next((link for link in desk.links if link.pid == record.holder), None)
    if link is None or _has_begun(link, record, arena.task_of(link.region), desk.queue.batch_size):
        return where
    return f"{where}, not begun: {link.in_flight - 1} other tasks were in the same hands"


def outside(desk: StepDesk) -> str:
    """Say where a task was that was not let into the queue of a step."""
    return f"waiting for a place in the queue of step {desk.name}, where {desk.queue.count} tasks wait"


def late_answer(link: WorkerLink, record: Record, status: int, duration: float, now: float) -> str:
    """Say where a task was whose answer came after its deadline.

    Args:
        link: The worker that has answered.
        record: The task.
        status: How the worker ended its work on it.
        duration: Seconds that the call of the handler took.
        now: The time on the clock of ``time.monotonic``.
    """
    where = f"in the hands of step {link.name} (pid {link.pid}) for {now - record.sent_at:.3f} s"
    if status == Status.EXPIRED:
        return f"{where}, not begun when its deadline passed"
    return f"{where}, and its answer came {now - record.deadline:.3f} s late; its handler took {duration:.3f} s"


def _has_begun(link: WorkerLink, record: Record, current: int, batch_size: int) -> bool:
    """Tell whether a worker has begun a task that it holds.

    Args:
        link: The worker.
        record: The task.
        current: Id of the task with which the last call of the handler began.
        batch_size: The most tasks in a call.
    """
    is_here = False
    for records in link.batches:
        for start in range(0, len(records), batch_size):
            call = records[start : start + batch_size]
            is_here = is_here or record in call
            if any(other.id == current for other in call):
                return is_here
    return False


def _waiting(desk: StepDesk, record: Record, now: float) -> str:
    others = desk.queue.count - record.is_waiting
    held = sum(link.in_flight for link in desk.links)
    return (
        f"waiting for step {desk.name} for {now - record.arrived_at:.3f} s, where {others} others wait and "
        f"workers have {held} tasks in hand"
    )
