"""What a worker does when the API process is gone: nobody is left who would end it and the processes it has made."""

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
"""Seconds in which an idle worker may run `on_stop`."""

GRACE = 0.5
"""Seconds from SIGTERM to SIGKILL for the processes that a handler has made."""


class ParentDeathSignal:
    """Has the kernel kill this process group when the API process ends.

    No thread of a worker runs while its handler is in C code that holds the interpreter's lock, so only the kernel can
    end it then: it sends SIGKILL when the last write end of the lifeline is closed (fcntl(2): O_ASYNC, F_SETSIG,
    F_SETOWN). It does so at once, while an idle worker should run `on_stop`; so this is switched off for idle ones.
    Not PR_SET_PDEATHSIG: that fires when the *thread* ends that has started the process, and spares its children.

    Nothing happens where the system has no such signals; there the worker goes when the call ends.

    Args:
        lifeline: Descriptor of the read end.
    """

    def __init__(self, lifeline: int) -> None:
        self._fd = lifeline
        self._can_kill = hasattr(fcntl, "F_SETSIG") and os.getpgrp() == os.getpid()
        if self._can_kill:
            try:
                # Opened anew: owner and signal belong to the open file, which all workers of a flow have in common.
                self._fd = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.close(lifeline)
                fcntl.fcntl(self._fd, fcntl.F_SETSIG, signal.SIGKILL)
                fcntl.fcntl(self._fd, fcntl.F_SETOWN, -os.getpgrp())
            except OSError:
                self._can_kill = False  # a sandbox that has a part of Linux only

    def arm(self) -> None:
        """Have it killed from now on."""
        # An API process that ended a moment before is not noticed; then the thread ends this process after the call.
        if self._can_kill:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)

    def disarm(self) -> None:
        """Leave it to the worker's threads."""
        if self._can_kill:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_NONBLOCK)


def watch_parent(fd: int) -> None:
    """Start the thread that ends this process and its children when the API process is gone.

    Args:
        fd: Descriptor of the worker's end of the channel.
    """
    threading.Thread(target=_watch, args=(fd,), name="aqueduct-watch", daemon=True).start()


def _watch(fd: int) -> None:
    # Else a signal may find this thread, and the main thread, whose handlers it is for, sleeps on until the next task.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    poll = select.poll()
    poll.register(fd, 0)  # only hang-up and error: waiting tasks do not wake this thread
    poll.poll()
    time.sleep(STOP_TIME)  # an idle worker sees it by itself, and may run on_stop
    end_group()


def end_group() -> NoReturn:
    """End the processes that this one has made, and then itself."""
    group = os.getpgrp()
    if group == os.getpid():
        # SIGTERM must not end this process, which sends SIGKILL afterwards. Python sets dispositions in its main thread
        # only, and that may be busy.
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
