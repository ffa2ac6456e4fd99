"""A file without a name into which a dying or hung worker writes its stack."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys

MAX_TRACE = 64 * 1024
"""Bytes of a trace that are kept."""

DUMP_SIGNAL = signal.SIGUSR1
"""Asks a worker for the stacks of all its threads."""


if sys.platform == "linux":

    def create_trace() -> int:
        """Make the file; the worker inherits its descriptor."""
        return os.memfd_create("aqueduct-trace", os.MFD_CLOEXEC)

else:
    import tempfile

    def create_trace() -> int:
        """Make the file; the worker inherits its descriptor."""
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def read_trace(fd: int) -> str:
    """Return what a worker has written."""
    return os.pread(fd, MAX_TRACE, 0).decode(errors="replace").strip()


def write_trace_on_faults(fd: int) -> None:
    """Have this process write its stacks there when it crashes, and when it is asked to.

    faulthandler works in C: also while a handler holds the interpreter's lock in a call that never returns.
    """
    faulthandler.enable(fd, all_threads=True)
    faulthandler.register(DUMP_SIGNAL, fd, all_threads=True, chain=False)
