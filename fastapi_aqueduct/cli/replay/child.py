"""Goes on in a child process, which a task may end."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys

from ...exceptions import describe_exit


def go_on_in_child() -> str | None:
    """Fork: the child goes on, with the terminal, and the parent waits for it.

    The parent exits with the status of the child, unless a task has ended that: with a signal, or with a status such as
    0 that says nothing.

    Returns:
        In the child None; in the parent how a task has ended the child, in words.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        atexit.register(os.write, writing, b".")  # it has come to its own end
        return None
    os.close(writing)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the child
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    os.set_blocking(reading, False)  # a process that the task has started may have the other end
    with contextlib.suppress(BlockingIOError):
        if os.read(reading, 1):
            sys.exit(code)
    return describe_exit(code)
