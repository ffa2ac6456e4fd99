"""The current tasks: those for which user code in this worker runs.

Log records and spans belong to them. They depend on where the code runs, so a context variable refers to them: calls of
coroutines run side by side, generators alternate, and a thread works for tasks if it runs in a copy of the context of
``handle``, as under ``asyncio.to_thread``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

from ...task import BaseTask
from ..wire.frames import Envelope


class InHand(NamedTuple):
    """A task in hand.

    Attributes:
        envelope: The task as it came.
        task: The task.
    """

    envelope: Envelope
    task: BaseTask


Source = Callable[[], list[InHand]]

source: ContextVar[Source] = ContextVar("fastapi_aqueduct.current_tasks", default=list)
"""Returns the current tasks.

Not the tasks themselves: a context may outlive its call, for example in a callback of an event loop, and a reference
would keep their blocks. It is set once for all plain calls, so a call costs nothing.
"""


def current_tasks() -> list[InHand]:
    """Return the current tasks: several in a call for a batch, none outside calls of ``handle``."""
    return source.get()()


def current_ids() -> str | None:
    """Return the id of the current task; of several, their ids with commas between them; None if there is none."""
    tasks = current_tasks()
    if len(tasks) == 1:
        return tasks[0].task.task_id
    return ",".join([item.task.task_id for item in tasks]) or None


def current_numbers() -> list[int]:
    """Return the numbers on the wire of the current tasks."""
    return [item.envelope.id for item in current_tasks()]
