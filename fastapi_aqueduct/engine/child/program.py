"""The user's code that the workers of a step run, in a memory file of its own."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from ...handler import BaseTaskHandler
from ..marks import Marker
from ..memory.mapping import create_memory
from ..shape import Shape
from .importing import ProgramUnpickler


class Program(NamedTuple):
    """The user's code that the workers of a step run.

    Attributes:
        handler: The handler of the step.
        conditions: ``handle_condition`` of every step of the flow.
        context: The context variables that travel with tasks.
        worker_init: Called before `on_start`.
        markers: What reads the marks of the tasks of each step; see `Route`.
        shape: Which steps run one after the other, and which side by side; empty: all one after the other.
    """

    handler: BaseTaskHandler
    conditions: list[Callable[[Any], Any]]
    context: Sequence[ContextVar[Any]] = ()
    worker_init: Callable[[], object] | None = None
    markers: Sequence[Marker | None] = ()
    shape: Shape = ()


class ProgramFile:
    """A pickled program in a memory file, whose descriptor workers inherit.

    It is written once for all workers of a step and their replacements. A handler may contain a model: on the channel
    it would pass through the event loop in pieces for each worker, and in the arena it would count for `memory_limit`.

    Args:
        name: The name of the file in the system's tools.
        data: The pickled program.

    Attributes:
        fd: The descriptor.

    Raises:
        OSError: No descriptor or no memory is left.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.fd = create_memory(name, len(data))
        try:
            with mmap.mmap(self.fd, len(data)) as memory:
                memory[:] = data
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptor, which is -1 then; the memory is freed when no worker has it open any more."""
        os.close(self.fd)
        self.fd = -1


def read_program(fd: int) -> Program:
    """Read the program in a worker, and close the descriptor.

    Raises:
        NotImportable: A class or function in it cannot be imported.
    """
    program: Program = read_pickle(fd)
    return program


def read_pickle(fd: int) -> Any:
    """Read what a `ProgramFile` contains, and close the descriptor; as `read_program`."""
    try:
        # Mapped, not read: all workers share the file position.
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
            return ProgramUnpickler(memory).load()
    finally:
        os.close(fd)
