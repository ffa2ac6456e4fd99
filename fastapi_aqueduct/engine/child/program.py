"""What the workers of a step run, in a memory file of its own."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from ...handler import BaseTaskHandler
from ..memory.mapping import create_memory
from .importing import ProgramUnpickler


class Program(NamedTuple):
    """What the workers of a step run.

    Attributes:
        handler: Its handler.
        conditions: ``handle_condition`` of every step of the flow.
    """

    handler: BaseTaskHandler
    conditions: list[Callable[[Any], Any]]


class ProgramFile:
    """A pickled program that workers inherit by descriptor.

    It is written once for all workers of a step and for those that replace them. A handler may hold a model: on the
    channel it would pass through the event loop in pieces for each worker, and in the arena `memory_limit` would have
    to be larger by it.

    Args:
        name: Shown by the system's tools beside the descriptor.
        data: The program, pickled.

    Attributes:
        fd: What workers inherit.

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
        """Give the memory back, once no worker reads it."""
        os.close(self.fd)


def read_program(fd: int) -> Program:
    """Read the program in a worker, and close its file.

    Raises:
        NotImportable: A class or function in it cannot be imported.
    """
    try:
        # Mapped, since all workers share the position of the file.
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
            program: Program = ProgramUnpickler(memory).load()
    finally:
        os.close(fd)
    return program
