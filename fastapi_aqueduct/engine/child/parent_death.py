"""The end of a worker and its child processes when the API process ends and cannot stop them any more."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import threading
import time
from typing import NoReturn

from .process_group import kill_others

STOP_TIME = 0.5
"""Seconds that an idle worker has for `on_stop`."""

GRACE = 0.5
"""Seconds from SIGTERM to SIGKILL for the processes that a handler has started."""


class ParentDeathSignal:
    """Makes the kernel send SIGKILL to this process group when the API process ends.

    While a handler runs C code that holds the interpreter's lock, no other thread of the worker runs, and only the
    kernel can end it: it sends SIGKILL when the last write end of the lifeline is closed (fcntl(2): O_ASYNC, F_SETSIG,
    F_SETOWN). An idle worker disarms the signal, to have time for `on_stop`.
    Not PR_SET_PDEATHSIG: that fires when the *thread* ends that has started the process, and spares its children.

    Without effect on systems that lack these signals; there the worker ends after the call.

    Args:
        lifeline: Descriptor of the read end.
    """

    def __init__(self, lifeline: int) -> None:
        self._fd = lifeline
        self._can_kill = hasattr(fcntl, "F_SETSIG") and os.getpgrp() == os.getpid()
        if self._can_kill:
            try:
                # Opened again: owner and signal belong to the open file description, which all workers share.
                self._fd = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.close(lifeline)
                fcntl.fcntl(self._fd, fcntl.F_SETSIG, signal.SIGKILL)
                fcntl.fcntl(self._fd, fcntl.F_SETOWN, -os.getpgrp())
            except OSError:
                self._can_kill = False  # a sandbox that implements a part of Linux

    def arm(self) -> None:
        """Kill the group when the API process ends from now on."""
        # An earlier end is not noticed; then the thread of `watch_parent` ends this process after the call.
        if self._can_kill:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)

    def disarm(self) -> None:
        """Leave the end of the API process to the worker's threads."""
        if self._can_kill:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_NONBLOCK)

    def close(self) -> None:
        """Close the descriptor, in a fork: the signal remains that of the process which has made this."""
        os.close(self._fd)


def watch_parent(fd: int) -> None:
    """Start the thread that ends this process and its children when the API process has ended.

    Args:
        fd: Descriptor of the worker's end of the channel.
    """
    threading.Thread(target=_watch, args=(fd,), name="aqueduct-watch", daemon=True).start()


def _watch(fd: int) -> None:
    # Else the kernel may deliver a signal to this thread, and the main thread, which runs Python's signal handlers,
    # sleeps on until the next task.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    poll = select.poll()
    poll.register(fd, 0)  # hang-up and error only: tasks that arrive do not wake this thread
    poll.poll()
    time.sleep(STOP_TIME)  # an idle worker notices the end itself, and runs on_stop
    end_group()


def end_group() -> NoReturn:
    """End the child processes, then this process."""
    group = os.getpgrp()
    if group == os.getpid():
        # This process must survive its SIGTERM, to send SIGKILL afterwards. `signal.signal` works in the main thread
        # only, which may be busy.
        ctypes.CDLL(None).signal(int(signal.SIGTERM), ctypes.c_void_p(int(signal.SIG_IGN)))
        os.killpg(group, signal.SIGTERM)
        if _has_children():
            time.sleep(GRACE)
            kill_others(group)
    os._exit(1)


def _has_children() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
