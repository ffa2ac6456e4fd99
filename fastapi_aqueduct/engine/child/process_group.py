"""What is left of a process group when its leader is gone, or going."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator


def signal_members(number: int, signum: int) -> bool:
    """Send a signal to what is left of a group whose leader is gone and whose status has been read.

    Args:
        number: The number of the group.
        signum: The signal; 0 only asks.

    Returns:
        Whether anything is left.
    """
    # A server that is process 1 of its container, or a subreaper, becomes the parent of what is left.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-number, os.WNOHANG)[0]:
            pass
    # A number is given to no new process while a group has it (POSIX: process ID reuse). So a process of this number
    # proves that the group had ended, and what has the number now is a stranger's.
    with contextlib.suppress(OSError):
        os.kill(number, 0)
        return False
    try:
        os.killpg(number, signum)
    except OSError:
        return False
    return True


def kill_members(number: int) -> None:
    """Send SIGKILL to what is left of a group, see `signal_members`, but not to trackers: see `kill_others`."""
    if signal_members(number, 0):
        kill_others(number)


def kill_others(number: int) -> None:
    """Send SIGKILL to the processes of a group, one by one, but not to its leader.

    Nor to a resource tracker of multiprocessing: that ends by itself when those are gone who use it, and removes the
    shared memory and the semaphores that they have left behind.

    Args:
        number: The number of the group.
    """
    if not hasattr(os, "pidfd_open"):
        os.killpg(number, signal.SIGKILL)  # no /proc either
        return
    killed: set[int] = set()
    while found := set(_others(number)) - killed:  # again, as long as they have made others meanwhile
        for pid in found:
            _kill_member(pid, number)
        killed |= found


def _kill_member(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if os.getpgid(pid) == number:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _others(number: int) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != number:
            with contextlib.suppress(OSError):
                # The command, in parentheses, may contain anything.
                state, _, group = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()[:3]
                if int(group) == number and state != b"Z" and not _is_tracker(name):
                    yield int(name)


def _is_tracker(name: str) -> bool:
    return b"resource_tracker import main" in _read(f"/proc/{name}/cmdline")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
