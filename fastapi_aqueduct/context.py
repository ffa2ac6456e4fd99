"""`task_context`: the context of one task of a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .runtime import task_hosts


def task_context(task: Any) -> AbstractContextManager[None]:
    """Return a context manager in which code of ``handle`` works for one task of a batch.

        def handle(self, *tasks: Scan) -> None:
            for task, label in zip(tasks, self.model([task.pixels for task in tasks])):
                with task_context(task):
                    log.info("found %s", label)         # a record of this task, and of its request

    The context variables of ``Flow(context=...)`` have the values of the task's caller, and log records belong to the
    task alone. Does nothing for a task that is not in hand, and outside a worker.

    Args:
        task: A task that ``handle`` works on.
    """
    for host in task_hosts:
        return host.surround(task)
    return nullcontext()
