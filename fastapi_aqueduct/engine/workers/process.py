"""Starts the process of a worker, in a fresh interpreter or from the forkserver."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util  # its atexit function joins processes, so it must be older than the one of flow
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from multiprocessing.reduction import DupFd
from typing import Any, Literal, NamedTuple

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
"""Variables from which numeric libraries read the size of their thread pools while they are imported."""


FORKSERVER_DESCRIPTORS = 12
"""Free descriptors with which `multiprocessing` can start a process: for a moment it uses up to nine."""


class Descriptors(NamedTuple):
    """The descriptors that a worker inherits beside its end of the channel, in the order of its arguments.

    Attributes:
        memory: The shared memory.
        trace: The file for its stack.
        lifeline: The read end of a pipe whose write end only the API process has.
        program: The memory file with its program.
    """

    memory: int
    trace: int
    lifeline: int
    program: int


class Process(ABC):
    """A worker process, the leader of a process group; it starts when the object is made.

    Args:
        sock: The worker's end of the channel.
        descriptors: What the worker inherits beside it.
        label: The name of the process for people.
        environment: Variables to set.

    Attributes:
        pid: The process id.
    """

    pid: int

    @abstractmethod
    def __init__(self, sock: socket.socket, descriptors: Descriptors, label: str, environment: dict[str, str]) -> None:
        pass

    @property
    def status_fd(self) -> int | None:
        """A descriptor that is readable once the exit status is known; None: that is when the process has ended."""
        return None

    @abstractmethod
    def exit_code(self) -> int | None:
        """Return the exit status, negative for a signal; None until it is known."""

    @abstractmethod
    def wait(self, timeout: float) -> int | None:
        """Wait for the end, for ``timeout`` seconds at most, and read and return the exit status."""

    @abstractmethod
    def forget(self) -> None:
        """Treat it as ended, in a fork of the process that has started it."""

    @abstractmethod
    def close(self) -> None:
        """Close the descriptors of a process that has ended; its exit status remains."""


class SpawnedProcess(Process):
    """A worker in a fresh interpreter; process lists show its label."""

    def __init__(self, sock: socket.socket, descriptors: Descriptors, label: str, environment: dict[str, str]) -> None:
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
        # The system is not asked: once its status is read the process loses its number, which its group may need.
        return self._popen.returncode

    def wait(self, timeout: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
        return self._popen.returncode

    def forget(self) -> None:
        self._popen.returncode = 0  # else subprocess warns of a child that nothing waits for

    def close(self) -> None:
        pass


class ForkserverProcess(Process):
    """A worker forked from a process that has imported the package already: the forkserver of `multiprocessing`.

    That is its parent, and reports its exit status through a pipe.
    """

    def __init__(self, sock: socket.socket, descriptors: Descriptors, label: str, environment: dict[str, str]) -> None:
        self._exit_code: int | None = None
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

    @property
    def status_fd(self) -> int | None:
        return self._process.sentinel

    def exit_code(self) -> int | None:
        if self._exit_code is None:
            self._exit_code = self._process.exitcode
        return self._exit_code

    def wait(self, timeout: float) -> int | None:
        if self._exit_code is None:
            self._process.join(timeout)
        return self.exit_code()

    def forget(self) -> None:
        # multiprocessing reads the status whenever it counts its children, and joins them at exit. The pipe is shared
        # with the parent, which would lose the status.
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, self._process.sentinel, inheritable=False)
        os.close(null)

    def close(self) -> None:
        # multiprocessing closes the pipes when the garbage collector finds the process. One whose status is not known
        # stays: multiprocessing closes it with the next start, after the forkserver has reported.
        if self.exit_code() is not None:
            self._process.close()


def _check_descriptors() -> None:
    """Check that enough descriptors are left to request a process from the forkserver.

    `multiprocessing` needs a socket and two pipes, and leaks the first pipe when there is none for the second.

    Raises:
        OSError: There are too few.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(FORKSERVER_DESCRIPTORS):
            stack.callback(os.close, os.dup(0))


class _Descriptor:
    """A descriptor as an argument of a process, in which it arrives as a number."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        # Only while the process is being started: else multiprocessing serves the descriptor from a thread and a
        # listening socket, which remain.
        return bootstrap.detach, (DupFd(self._fd),)


def start_process(
    method: StartMethod, sock: socket.socket, descriptors: Descriptors, label: str, environment: dict[str, str]
) -> Process:
    """Start a worker. This blocks for some milliseconds: call it in a thread."""
    process = SpawnedProcess if method == "spawn" else ForkserverProcess
    return process(sock, descriptors, label, environment)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in this thread; a child that is started meanwhile inherits that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def thread_environment(workers: int) -> dict[str, str]:
    """Divide the cores among the workers, so that numeric libraries do not start cores x workers threads.

    Args:
        workers: Number of worker processes.

    Returns:
        The variables to set, without those that the user has set.
    """
    threads = str(max(1, available_cores() // workers))
    return {name: threads for name in THREAD_VARIABLES if name not in os.environ}
