"""System calls that fail: because descriptors are really short, or one after the other."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import fastapi_aqueduct

ENGINE = str(Path(fastapi_aqueduct.__file__).parent / "engine")

CALLS = frozenset(
    ("socketpair", "setblocking", "setsockopt", "memfd_create", "send", "start_new_thread", "register", "modify")
    + ("ftruncate", "fcntl", "pipe", "dup", "connect", "fork_exec", "pidfd_open", "kill", "waitpid", "pread")
)
"""What launch and recycling ask the system for, in the thread of the event loop and in those of launches. Reading and
closing are no part; nor is ``sendmsg``, after whose failure the forkserver of `multiprocessing` ends, and another one
is started with the next launch."""

OURS = frozenset(("dup", "fcntl", "pipe"))
"""Those of them that `multiprocessing` makes as well, which loses descriptors where they fail. So the package finds out
before it is called whether there are enough."""

PARTS = (
    f"{ENGINE}/engine.py",
    *(f"{ENGINE}/workers/{name}.py" for name in ("supervisor", "launches", "launcher", "recycler", "sentinel")),
)


class Descriptors:
    """Takes the descriptors of this process up to its limit, and gives some back.

    A limit is on the highest number, so whatever is free below it is taken as well.
    """

    def __init__(self) -> None:
        self._taken: list[int] = []

    def leave(self, count: int) -> None:
        """Leave exactly ``count`` descriptors."""
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


class Call(NamedTuple):
    """One of the system calls of launch and recycling.

    Attributes:
        name: Its function.
        number: How many calls of that function come before it.
    """

    name: str
    number: int = 0


class Injection:
    """Has one system call of launch and recycling fail instead of being made.

    A profile function of the interpreter sees each call of a C function, in this thread and in those that start while
    it is in use; what it raises is raised there. It is taken off the thread in which it has raised: one of the threads
    of a flow's launches sees nothing from then on.

    Args:
        failing: The call that fails; None: they are only listed.

    Attributes:
        calls: The calls up to now.
        has_failed: Whether the one that was to fail has been made.
    """

    def __init__(self, failing: Call | None = None) -> None:
        self.calls: list[Call] = []
        self.has_failed = False
        self._failing = failing
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._is_over = False

    def __enter__(self) -> Injection:
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over = True
        threading.setprofile(None)
        sys.setprofile(None)

    def begin(self, failing: Call) -> None:
        """List and count anew, and have a call fail."""
        with self._lock:
            self.calls.clear()
            self._counts.clear()
            self._failing = failing

    def _see(self, frame: FrameType, event: str, arg: Any) -> None:
        if event != "c_call" or self._is_over or arg.__name__ not in CALLS or not _is_in_launch(frame):
            return
        if arg.__name__ in OURS and not frame.f_code.co_filename.startswith(ENGINE):
            return
        with self._lock:
            call = Call(arg.__name__, self._counts[arg.__name__])
            self._counts[call.name] += 1
            self.calls.append(call)
        if call == self._failing:
            self.has_failed = True
            raise OSError(errno.EMFILE, f"injected into {call.name}")


def _is_in_launch(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in PARTS:
            return True
        frame = frame.f_back
    return False
