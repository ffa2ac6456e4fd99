"""Signals to the members of a process group whose leader has ended or is ending."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator


def signal_members(number: int, signum: int) -> bool:
    """Send a signal to the members of a group whose leader has ended and has been reaped.

    Args:
        number: The number of the group.
        signum: The signal; 0 only checks for members.

    Returns:
        Whether the group has members.
    """
    # A server that is process 1 of its container, or a subreaper, becomes the parent of the members.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-number, os.WNOHANG)[0]:
            pass
    # No new process gets the number of an existing group (POSIX: process ID reuse). So a process of this number proves
    # that the group had ended, and that the number now belongs to an unrelated process.
    with contextlib.suppress(OSError):
        os.kill(number, 0)
        return False
    try:
        os.killpg(number, signum)
    except OSError:
        return False
    return True


def kill_members(number: int) -> None:
    """Send SIGKILL to the members of a group whose leader has ended and has been reaped, as `kill_others` does."""
    if signal_members(number, 0):
        kill_others(number)


def kill_others(number: int) -> None:
    """Send SIGKILL to the processes of a group, one by one, except to its leader.

    A resource tracker of multiprocessing is spared, too: it ends when the processes that use it have ended, and removes
    the shared memory and the semaphores that they have left behind.

    Args:
        number: The number of the group.
    """
    if not hasattr(os, "pidfd_open"):
        os.killpg(number, signal.SIGKILL)  # no /proc either
        return
    killed: set[int] = set()
    while found := set(_others(number)) - killed:  # repeated, since members may have forked meanwhile
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
                # The second field, the command in parentheses, may contain any character.
                state, _, group = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()[:3]
                if int(group) == number and state != b"Z" and not _is_tracker(name):
                    yield int(name)


def _is_tracker(name: str) -> bool:
    return b"resource_tracker import main" in _read(f"/proc/{name}/cmdline")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
