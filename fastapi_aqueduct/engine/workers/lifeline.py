"""A pipe that ends with the API process."""

from __future__ import annotations

import os


class Lifeline:
    """A pipe without data: workers have the read end, and only the API process has the write end.

    When the API process ends in any way, the kernel closes the write end, and sends a signal to workers that have
    requested it (`fastapi_aqueduct.engine.child.parent_death`).

    Attributes:
        read_fd: The read end, which workers inherit.
    """

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()

    def close(self) -> None:
        """Close both ends."""
        for fd in (self.read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self.read_fd = self._write_fd = -1
