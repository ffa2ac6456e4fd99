"""Carries a task from step to step of a replay, as it travels between workers."""

from __future__ import annotations

import os
from collections.abc import Callable

from ...engine.memory.arena import Arena
from ...engine.memory.layout import Layout
from ...engine.memory.mapping import Mapping, create_memory
from ...engine.wire.codec import Codec, Encoded
from ...engine.wire.patch import Changes, fields_of, join
from ...task import BaseTask


class Transport:
    """Encodes a task behind each step, and decodes it in front of the next one: its large fields are read-only there.

    Blocks are kept until the end of the process.

    Args:
        limit: The most bytes of large fields.
    """

    def __init__(self, limit: int) -> None:
        layout = Layout(regions=1, limit=limit)
        fd = create_memory("replay", layout.size)
        try:
            arena = Arena(Mapping(fd, layout.size), layout, 0, lambda offset: None)
        finally:
            os.close(fd)
        self._codec = Codec(arena)
        self._changes = Changes(self._codec, arena)

    def encode(self, task: BaseTask) -> Encoded:
        """Encode a task.

        Raises:
            TaskNotPicklable: A field cannot travel.
            ArenaFull: The fields are larger than the limit.
        """
        return self._codec.encode(task)

    def decode(self, content: Encoded) -> BaseTask:
        """Return a task, a new one with each call.

        Raises:
            Exception: Of a class that cannot be restored.
        """
        return self._codec.decode(content)

    def patch(self, content: Encoded, change: Callable[[BaseTask], object]) -> Encoded:
        """Return what a function changes of a task, as a step in a branch sends it.

        Raises:
            TaskNotPicklable: A field cannot travel.
            ArenaFull: The fields are larger than the limit.
            Exception: Raised by the function.
        """
        task = self.decode(content)
        self._changes.begin(task)
        change(task)
        return Encoded(b"", *self._changes.encode(task), b"")

    @staticmethod
    def fields_of(patches: list[Encoded]) -> set[str]:
        """Return the names of the fields that patches set or delete."""
        return {name for patch in patches for name in fields_of(patch)}

    @staticmethod
    def join(content: Encoded, patches: list[Encoded]) -> Encoded:
        """Return a task with patches."""
        return join(content, patches)
