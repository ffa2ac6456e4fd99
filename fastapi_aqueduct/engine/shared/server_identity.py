"""Which server this process belongs to: the processes of one server have the same parent, and inherit the same."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

_START_TIME, _STACK_START = 21, 27
"""Fields of /proc/PID/stat, from 0 on (proc_pid_stat(5))."""

_OWN_VARIABLES = frozenset({"_", "OLDPWD", "SHLVL", "PORT", "PS", "SUPERVISOR_PROCESS_NAME"})
"""Variables by which shells, foreman and supervisord tell programs apart that they start alike."""


class ServerIdentity(NamedTuple):
    """The parent of this process, and what tells it from another process with its number.

    It is read when a flow starts and kept: the parent may die, and its children serve on.

    Attributes:
        parent: Process id of the parent.
        start: When that has started, as the system writes it; empty where it cannot be read.
        surroundings: Namespace of process ids and control group: the init process is the parent of many servers.
        environment: Digest of the environment, which workers inherit; empty for the processes of a server that starts
            several alike. Two programs with the same parent, such as a shell, are one server only if it is the same.
    """

    parent: int
    start: str
    surroundings: str
    environment: str

    @classmethod
    def read(cls) -> ServerIdentity:
        """Read it from the system."""
        parent = os.getppid()
        # Processes of one server inherit the same environment, but their own code may give each a number of its own.
        environment = "" if is_supervised() else _environment_digest()
        return cls(parent, _start_time(parent), _surroundings(), environment)

    def digest(self, *names: str) -> str:
        """Return 12 hexadecimal digits that the processes of this server agree on.

        Args:
            *names: What they ask for, such as a flow.
        """
        text = "\0".join([str(os.geteuid()), *map(str, self), *names])
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]


def is_supervised() -> bool:
    """Return whether the parent has started this process as one of several alike.

    That is so under uvicorn, hypercorn and granian, which use `multiprocessing`, and under gunicorn, which forks. Two
    servers of one shell, one process manager or one test runner are programs of their own.
    """
    return multiprocessing.parent_process() is not None or _is_fork_of(os.getppid())


def parent_age() -> float:
    """Return the seconds since the parent has started; infinite where that cannot be read."""
    if sys.platform != "linux":
        return float("inf")
    try:
        ticks = int(_stat(os.getppid())[_START_TIME])
    except (OSError, ValueError, IndexError):
        return float("inf")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _is_fork_of(parent: int) -> bool:
    # A program that is executed gets a stack at an address of its own, and a fork keeps that of its parent. Command
    # lines say less: gunicorn changes those of its processes if setproctitle is installed.
    try:
        ours, theirs = (int(_stat(pid)[_STACK_START]) for pid in (os.getpid(), parent))
    except (OSError, ValueError, IndexError):
        return False
    return ours == theirs > 1  # 0 and 1: the system does not tell


def _start_time(pid: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        return _stat(pid)[_START_TIME].decode()
    if sys.platform == "linux":
        return ""  # the parent is outside this namespace, or hidden
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, timeout=5.0).stdout.strip()
    return ""


def _environment_digest() -> str:
    variables = sorted(item for item in os.environb.items() if os.fsdecode(item[0]) not in _OWN_VARIABLES)
    return hashlib.sha256(b"\0".join(b"%s=%s" % item for item in variables)).hexdigest()


def _surroundings() -> str:
    found = ""
    with contextlib.suppress(OSError):
        found = str(os.stat("/proc/self/ns/pid").st_ino)
        found += Path("/proc/self/cgroup").read_text()
    return found


def _stat(pid: int) -> list[bytes]:
    content = Path(f"/proc/{pid}/stat").read_bytes()
    # The second field, the name in parentheses, may contain anything.
    head, _, tail = content.rpartition(b")")
    return [*head.split(b" ", 1), *tail.split()]
