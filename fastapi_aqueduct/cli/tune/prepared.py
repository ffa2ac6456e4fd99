"""The sample tasks as they enter each step."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

from ...engine.wire.packing import pack_value, unpack_value
from ...runtime import RUNTIME
from ...task import BaseTask

_OWN_TO_A_CALL = (RUNTIME, "expiration_time")


class PreparedTasks:
    """Tasks as they enter a step, from which any number of copies can be made.

    Attributes:
        originals: One of each.
        largest: Bytes of the largest one.
    """

    def __init__(self) -> None:
        self.originals: list[BaseTask] = []
        self.largest = 0
        self._next: Iterator[BaseTask] = iter(())

    def add(self, task: BaseTask) -> None:
        """Keep a copy of a task, with its large fields outside of the shared memory of the flow that it came from."""
        content = pack_value(task)
        self.largest = max(self.largest, len(content))
        self.originals.append(unpack_value(content))
        self._next = itertools.cycle(self.originals)

    def take(self, count: int) -> list[BaseTask]:
        """Return new tasks, copies of the originals in turns."""
        return [renewed(next(self._next)) for _ in range(count)]

    def take_alike(self, count: int) -> list[BaseTask]:
        """Return new tasks, all of them copies of one original, and of another one in the next call."""
        original = next(self._next)
        return [renewed(original) for _ in range(count)]


def renewed(task: BaseTask) -> BaseTask:
    """Return a copy of a task that is one of its own: with the same fields, and as if it had not been processed."""
    fresh = copy.copy(task)
    for name in _OWN_TO_A_CALL:
        fresh.__dict__.pop(name, None)
    fresh.task_id = BaseTask().task_id
    return fresh
