"""The trace file of a worker: an unnamed file to which faulthandler writes stacks at a crash and on request."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys

MAX_TRACE = 64 * 1024
"""Bytes of a trace that are read."""

DUMP_SIGNAL = signal.SIGUSR1
"""Makes a worker write the stacks of all its threads."""


if sys.platform == "linux":

    def create_trace() -> int:
        """Create the file and return its descriptor, which the worker inherits."""
        return os.memfd_create("aqueduct-trace", os.MFD_CLOEXEC)

else:
    import tempfile

    def create_trace() -> int:
        """Create the file and return its descriptor, which the worker inherits."""
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def read_trace(fd: int) -> str:
    """Return the text that a worker has written."""
    return os.pread(fd, MAX_TRACE, 0).decode(errors="replace").strip()


def write_trace_on_faults(fd: int) -> None:
    """Write the stacks of this process to the trace file when it crashes, and on `DUMP_SIGNAL`.

    faulthandler is written in C, so it works while a handler holds the interpreter's lock in a call that never returns.
    """
    faulthandler.enable(fd, all_threads=True)
    faulthandler.register(DUMP_SIGNAL, fd, all_threads=True, chain=False)
