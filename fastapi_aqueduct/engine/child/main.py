"""Entry point of a worker process, after `bootstrap` has prepared the interpreter.

Imports nothing that a worker does not need: no event loop, no web framework.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial

from ...logger import log
from ..system.malloc import keep_freed_memory, trims_by_itself
from ..wire.worker_channel import WorkerChannel
from .logs import LogForwarder
from .parent_death import ParentDeathSignal, end_group, watch_parent
from .program import Program, read_program
from .session import Session
from .setup import KEPT
from .trace import write_trace_on_faults

LARGE = 256 << 20
"""Bytes from which a freed buffer goes back to the system at once, whatever a worker keeps."""

EARLY = (
    "worker of %s (pid %d): the forkserver of multiprocessing, which other code has used first, had imported %s before "
    "the variables of this worker were set; what it reads at import, such as thread counts, is not that of "
    'WorkerOptions: use mp_start_method="spawn", or import it in on_start only'
)

SMALL = 128 << 10
"""The same for a worker whose memory may not grow, where the heap is never trimmed."""

LOG_TIME = 1.0
"""Seconds for which a worker that ends waits until its last log records fit into the channel."""


def main(
    sock: socket.socket, memory_fd: int, trace_fd: int, lifeline: int, program_fd: int, *, imported: str = ""
) -> None:
    """Run a worker until it is stopped or the API process has ended.

    Args:
        sock: The worker's end of the channel.
        memory_fd: Descriptor of the shared memory.
        trace_fd: Descriptor of the file for its stack.
        lifeline: Descriptor of a pipe that ends with the API process.
        program_fd: Descriptor of the program.
        imported: Libraries that were imported before the environment of the worker was set.
    """
    run(sock, memory_fd, trace_fd, lifeline, partial(read_program, program_fd), imported)


def run(
    sock: socket.socket,
    memory_fd: int,
    trace_fd: int,
    lifeline: int,
    read_program: Callable[[], Program],
    imported: str = "",
) -> None:
    """Run a worker as `main`, which differs in where its program comes from.

    Args:
        sock: The worker's end of the channel.
        memory_fd: Descriptor of the shared memory.
        trace_fd: Descriptor of the file for its stack.
        lifeline: Descriptor of a pipe that ends with the API process.
        read_program: Returns the program.
        imported: As for `main`.
    """
    write_trace_on_faults(trace_fd)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    channel = WorkerChannel(sock)
    os.register_at_fork(after_in_child=channel.close)
    watch_parent(channel.fileno())
    parent_death_signal = ParentDeathSignal(lifeline)
    parent_death_signal.arm()
    logs = LogForwarder(channel)
    try:
        session = Session(channel, memory_fd, parent_death_signal, logs)
        session.prepare(read_program)
        if imported and session.setup.has_options:
            log.warning(EARLY, session.setup.name, os.getpid(), imported)
        # Not before: what loading has freed is not needed again.
        kept = session.setup.kept
        keep_freed_memory(kept, min(kept, LARGE) if kept == KEPT or trims_by_itself() else SMALL)
        session.run()
        logs.finish(LOG_TIME)
        parent_death_signal.arm()  # what the handler has left behind is the API process's to end
    except (EOFError, BrokenPipeError, ConnectionResetError):
        if channel.is_closed:
            raise
        # The API process has ended. What this process has printed would be lost with it.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        end_group()
