"""Checks that the limits of the system let a flow start."""

from __future__ import annotations

import os
import resource
import sys

from ...exceptions import ConfigurationError
from .layout import SERVER_SPACE, Layout

DESCRIPTORS_PER_WORKER = 4
"""Socket, pidfd, trace, and one that is open during the start of the process."""

DESCRIPTORS_TO_SPARE = 32
"""For the server's own connections, files and libraries."""


def check_limits(name: str, workers: int, layout: Layout) -> None:
    """Refuse a start that would fail later with a less clear error.

    Args:
        name: Name of the flow.
        workers: Number of its worker processes.
        layout: The division of its shared memory.

    Raises:
        ConfigurationError: A limit of this process does not allow the flow.
    """
    if sys.platform == "win32":
        raise ConfigurationError("a flow needs Linux or macOS: Windows lacks the sockets that it needs")
    _check_files(name)
    _check_descriptors(name, workers)
    for limit, option, what in (
        (resource.RLIMIT_AS, "ulimit -v", f"{layout.size * 2} bytes of address space, of which little is ever used"),
        (resource.RLIMIT_FSIZE, "ulimit -f", f"a memory file of {layout.size} bytes, of which little is ever used"),
    ):
        soft, _ = resource.getrlimit(limit)
        needed = layout.size * (2 if limit == resource.RLIMIT_AS else 1)
        if soft != resource.RLIM_INFINITY and needed > soft:
            raise ConfigurationError(
                f"flow {name} needs {what}, and the limit is {soft}: raise it ({option}) or lower memory_limit "
                f"from {layout.limit} bytes; the server's process has a region of {SERVER_SPACE} times that size, and "
                f"there are {layout.regions - 1} of that size for workers and their replacements"
            )


def _check_files(name: str) -> None:
    # A chroot has neither by default, and /dev/fd may be a link into /proc.
    for path, advice in (
        ("/proc/self", "mount it (`mount -t proc proc /proc`)"),
        ("/dev/fd", "link it (`ln -s /proc/self/fd /dev/fd`)"),
    ):
        if not os.path.isdir(path) and (sys.platform == "linux" or path != "/proc/self"):
            missing = path.removesuffix("/self")
            raise ConfigurationError(f"flow {name} needs {missing}, which is not there or not readable: {advice}")


def _check_descriptors(name: str, workers: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        open_now = len(os.listdir("/dev/fd"))
    except OSError:  # no descriptor is left for the look itself
        open_now = soft
    needed = open_now + workers * DESCRIPTORS_PER_WORKER + DESCRIPTORS_TO_SPARE
    if soft != resource.RLIM_INFINITY and needed > soft:
        raise ConfigurationError(
            f"flow {name} with {workers} workers needs {needed} open files, and the limit is {soft} (it may be raised "
            f"to {hard}): raise it with `ulimit -n {needed}`, LimitNOFILE= of systemd or --ulimit of docker"
        )
