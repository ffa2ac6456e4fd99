"""One worker process, seen from the process that started it."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util  # its atexit function joins processes, so it must be older than the one of flow
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from multiprocessing.reduction import DupFd
from typing import Any, Literal, NamedTuple, Protocol

from ...exceptions import ConfigurationError
from ..child import bootstrap
from ..system.cpu import available_cores
from .interpreter import worker_command

StartMethod = Literal["spawn", "forkserver"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What numeric libraries ask for the size of their thread pools, all of them while they are imported."""


FORKSERVER_DESCRIPTORS = 12
"""Free descriptors with which `multiprocessing` can start a process: it uses nine at most for a moment."""


class Process(Protocol):
    """A child process, however it was made."""

    pid: int

    def exit_code(self) -> int | None:
        """Return the exit status, negative for a signal; None until it has been read."""

    def wait(self, timeout: float) -> int | None:
        """Wait for the end, for ``timeout`` seconds at most, and read and return the exit status."""

    def forget(self) -> None:
        """Take it for ended in a fork of the process that has started it."""


class Descriptors(NamedTuple):
    """What a worker inherits beside its end of the channel; it knows them by the same names.

    Attributes:
        memory: The shared memory.
        trace: The file for its stack.
        lifeline: The end of a pipe whose other end only the API process has.
        program: What it runs.
    """

    memory: int
    trace: int
    lifeline: int
    program: int


class SpawnedProcess:
    """A worker in a fresh interpreter, the leader of a process group.

    Args:
        sock: The worker's end of the channel.
        descriptors: What it inherits beside it.
        label: Shown in process lists.
        environment: Variables to add.
    """

    def __init__(
        self, sock: socket.socket, descriptors: Descriptors, label: str, environment: dict[str, str]
    ) -> None:
        inherited = (sock.fileno(), *descriptors)
        with interrupts_blocked():
            self._popen = subprocess.Popen(
                [*worker_command(), *map(str, inherited), label],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                env={**os.environ, **environment},
                process_group=0,
            )
        self.pid = self._popen.pid

    def exit_code(self) -> int | None:
        """Return the exit status, negative for a signal; None until it has been read."""
        # Not asked for here: with its status the process loses its number, and its group may need that.
        return self._popen.returncode

    def wait(self, timeout: float) -> int | None:
        """Wait for the end, for ``timeout`` seconds at most, and read and return the exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
        return self._popen.returncode

    def forget(self) -> None:
        """Take it for ended in a fork of the process that has started it."""
        self._popen.returncode = 0  # else it warns of a child that nothing waits for


class ForkserverProcess:
    """A worker forked from a process that has imported the package already.

    Args:
        sock: The worker's end of the channel.
        descriptors: What it inherits beside it.
        label: Name of the process.
        environment: Variables to set.
    """

    def __init__(
        self, sock: socket.socket, descriptors: Descriptors, label: str, environment: dict[str, str]
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fastapi_aqueduct.engine.child.main"])
        self._process = context.Process(
            target=bootstrap.forked,
            args=(sock, [_Descriptor(fd) for fd in descriptors], environment),
            name=label,
            daemon=False,
        )
        _check_descriptors()
        try:
            with interrupts_blocked():
                self._process.start()
        except ChildProcessError as exc:
            raise ConfigurationError(
                "this process is a fork of one that has used the forkserver of multiprocessing, which serves only that "
                'one: use mp_start_method="spawn", or start no flow before the fork'
            ) from exc
        assert self._process.pid is not None
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit status, negative for a signal; None until the forkserver has reported it."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int | None:
        """Wait for the end, for ``timeout`` seconds at most, and read and return the exit status."""
        self._process.join(timeout)
        return self._process.exitcode

    def forget(self) -> None:
        """Take it for ended in a fork of the process that has started it."""
        # multiprocessing asks for the status whenever it counts its children, and joins them at the end. That reads
        # from a pipe which is shared with the parent, and would take its status away.
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, self._process.sentinel, inheritable=False)
        os.close(null)


def _check_descriptors() -> None:
    """Find out whether enough descriptors are left to ask the forkserver for a process.

    It needs a socket and two pipes, and leaves the first pipe open when there is none for the second.

    Raises:
        OSError: There are too few.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(FORKSERVER_DESCRIPTORS):
            stack.callback(os.close, os.dup(0))


class _Descriptor:
    """A descriptor that travels with the process it is an argument of, and arrives as a number."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        # Not before the process is being started: else multiprocessing serves the descriptor from a thread and a
        # listening socket, which stay for good.
        return bootstrap.detach, (DupFd(self._fd),)


def start_process(
    method: StartMethod, sock: socket.socket, descriptors: Descriptors, label: str, environment: dict[str, str]
) -> Process:
    """Start a worker; takes some milliseconds, so not for the event loop's thread."""
    made = SpawnedProcess if method == "spawn" else ForkserverProcess
    return made(sock, descriptors, label, environment)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in this thread; a child made meanwhile starts with it blocked, too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def thread_environment(workers: int) -> dict[str, str]:
    """Share the cores among the workers, so that numeric libraries do not start cores x workers threads.

    Args:
        workers: How many worker processes there will be.

    Returns:
        The variables to set; those that the user has set are left alone.
    """
    threads = str(max(1, available_cores() // workers))
    return {name: threads for name in THREAD_VARIABLES if name not in os.environ}
