"""System calls that fail: because descriptors are really short, or one after the other."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import fastapi_aqueduct

ENGINE = str(Path(fastapi_aqueduct.__file__).parent / "engine")

CALLS = frozenset(
    ("socketpair", "setblocking", "setsockopt", "memfd_create", "send", "start_new_thread", "register", "modify")
    + ("pidfd_open", "kill", "waitpid", "pread")
)
"""What launch and recycling ask the system for in the thread of the event loop. Reading and closing are no part."""

PARTS = tuple(f"{ENGINE}/{name}.py" for name in ("supervisor", "launcher", "recycler", "sentinel"))


class Descriptors:
    """Takes the descriptors of this process up to its limit, and gives some back.

    A limit is on the highest number, so whatever is free below it is taken as well.
    """

    def __init__(self) -> None:
        self._taken: list[int] = []

    def leave(self, count: int) -> None:
        """Have exactly so many descriptors left."""
        with contextlib.suppress(OSError):
            while True:
                self._taken.append(os.dup(0))
        for _ in range(count):
            os.close(self._taken.pop())

    def give_back(self) -> None:
        """Give all back."""
        while self._taken:
            os.close(self._taken.pop())


@contextlib.contextmanager
def few_descriptors(more: int = 20) -> Iterator[Descriptors]:
    """Lower the limit of this process to a little more than it has open.

    Args:
        more: How much more.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, limits[1]))
    descriptors = Descriptors()
    try:
        yield descriptors
    finally:
        descriptors.give_back()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Injection:
    """Has one system call of launch and recycling fail instead of being made.

    A profile function of the interpreter sees each call of a C function, and what it raises is raised there.

    Args:
        number: Which call of them fails; None: they are only listed.

    Attributes:
        calls: The names of the calls up to then.
    """

    def __init__(self, number: int | None = None) -> None:
        self.calls: list[str] = []
        self._number = number

    def __enter__(self) -> Injection:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, arg: Any) -> None:
        if event != "c_call" or arg.__name__ not in CALLS or not _is_in_launch(frame):
            return
        self.calls.append(arg.__name__)
        if len(self.calls) - 1 == self._number:
            raise OSError(errno.EMFILE, f"injected into {arg.__name__}")


def _is_in_launch(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in PARTS:
            return True
        frame = frame.f_back
    return False
