"""A pipe that ends with the API process."""

from __future__ import annotations

import os


class Lifeline:
    """A pipe into which nothing is written: workers have the read end, and only the API process the write end.

    When the API process ends, however it does, the kernel closes the write end, and workers that asked for it get a
    signal (`fastapi_aqueduct.engine.child.parent_death`).

    Attributes:
        read_fd: What workers inherit.
    """

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()

    def close(self) -> None:
        """Close both ends."""
        for fd in (self.read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self.read_fd = self._write_fd = -1
