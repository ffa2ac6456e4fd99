"""Starts the process of a worker, in a fresh interpreter or from the forkserver."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import wait as wait_readable
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple, Self

from ...exceptions import ConfigurationError
from ..child import bootstrap
from .interpreter import worker_command

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
    def __init__(
        self, sock: socket.socket, descriptors: Descriptors, label: str, environment: Mapping[str, str]
    ) -> None:
        pass

    def open_pidfd(self) -> int:
        """Return a descriptor that becomes readable when the process has ended; the caller closes it.

        Raises:
            OSError: No descriptor is left.
        """
        return os.pidfd_open(self.pid)

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
    """A worker, or a template, in a fresh interpreter; process lists show its label."""

    def __init__(
        self, sock: socket.socket, descriptors: Sequence[int], label: str, environment: Mapping[str, str]
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


class ReportedProcess(Process):
    """A worker that is no child of this process. Its parent reports its exit status through a pipe, `status_fd`."""

    def __init__(self) -> None:
        self._exit_code: int | None = None
        self._lock = threading.Lock()

    @abstractmethod
    def _read_status(self, status_fd: int) -> int | None:
        """Read the exit status from the pipe, once; None if the parent has ended without a report."""

    def exit_code(self) -> int | None:
        return self.wait(0.0)

    def wait(self, timeout: float) -> int | None:
        status_fd = self.status_fd
        if self._exit_code is None and status_fd is not None and wait_readable([status_fd], timeout):
            with self._lock:
                if self._exit_code is None:
                    self._exit_code = self._read_status(status_fd)
        return self._exit_code

    def forget(self) -> None:
        # The pipe is shared with the process that has started it, which would lose the status.
        self._exit_code = 0


class ForkserverProcess(ReportedProcess):
    """A worker forked from a process that has imported the package already: the forkserver of `multiprocessing`."""

    def __init__(
        self, sock: socket.socket, descriptors: Descriptors, label: str, environment: Mapping[str, str]
    ) -> None:
        super().__init__()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fastapi_aqueduct.engine.child.main"])
        self._process = context.Process(
            target=bootstrap.forked,
            args=(sock, [_Descriptor(fd) for fd in descriptors]),
            name=_Name(label, environment),
            daemon=False,
        )
        _check_descriptors()
        with contextlib.ExitStack() as undo:
            self._status_pipe = _StatusPipe()
            undo.callback(self._status_pipe.close)
            self._start()
            undo.pop_all()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._status_pipe.take_over(self._process.sentinel)

    def _start(self) -> None:
        try:
            with interrupts_blocked():
                self._process.start()
        except ChildProcessError as exc:
            raise ConfigurationError(
                "this process is a fork of one that has used the forkserver of multiprocessing, which serves only that "
                'one: use mp_start_method="spawn", or start no flow before the fork'
            ) from exc

    @property
    def status_fd(self) -> int | None:
        return self._status_pipe.fd

    def _read_status(self, status_fd: int) -> int | None:
        try:
            return forkserver.read_signed(status_fd)  # type: ignore[no-any-return]
        except EOFError:
            # The forkserver was killed, or multiprocessing has read the status before the pipe was taken over.
            return self._process.exitcode

    def close(self) -> None:
        self.exit_code()
        self._status_pipe.close()
        self._process.close()  # else multiprocessing closes its pipes when the garbage collector finds the process


class _StatusPipe:
    """The pipe with the exit status of a `multiprocessing` process, taken away from `multiprocessing`.

    `multiprocessing` reads the status in any thread that starts a process or counts them. The second of two readers
    finds the end of the pipe, and replaces the status that the first one has read with 255.

    Attributes:
        fd: The descriptor of the pipe; None when it is closed.
    """

    def __init__(self) -> None:
        # Both descriptors are opened before the process starts: without them it would run, and its status would be
        # lost.
        self._null: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.fd: int | None = os.dup(self._null)
        except OSError:
            os.close(self._null)
            raise

    def take_over(self, pipe: int) -> None:
        """Move the pipe here; its former descriptor is at its end from now on.

        Args:
            pipe: The descriptor that `multiprocessing` has.
        """
        assert self.fd is not None and self._null is not None
        os.dup2(pipe, self.fd, inheritable=False)
        os.dup2(self._null, pipe, inheritable=False)
        os.close(self._null)
        self._null = None

    def close(self) -> None:
        """Close the pipe."""
        for fd in (self.fd, self._null):
            if fd is not None:
                os.close(fd)
        self.fd = self._null = None


def _check_descriptors() -> None:
    """Check that enough descriptors are left to request a process from the forkserver.

    `multiprocessing` needs a socket and two pipes, and leaks the first pipe when there is none for the second.

    Raises:
        OSError: There are too few.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(FORKSERVER_DESCRIPTORS):
            stack.callback(os.close, os.dup(0))


EARLY = ("numpy", "polars", "tensorflow", "torch")
"""Libraries that read variables while they are imported."""

_SET_ENVIRONMENT = """(lambda os, sys: (
    os.environ.update({!r}),
    os.environ.setdefault({!r}, " ".join(name for name in {!r} if name in sys.modules)),
    {!r},
)[-1])(__import__("os"), __import__("sys"))"""
"""Sets variables, notes what was imported before that, and is a name."""


class _Name(str):
    """The name of a process, which sets environment variables where it is unpickled.

    `multiprocessing` sends the name first. Then it imports the main module, which may import the numeric libraries that
    read the variables, and then it unpickles the arguments, which would be too late. Only the standard library can be
    imported before the main module.

    Args:
        label: The name.
        environment: The variables.
    """

    _environment: Mapping[str, str]

    def __new__(cls, label: str, environment: Mapping[str, str]) -> Self:
        name = super().__new__(cls, label)
        name._environment = environment
        return name

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (_SET_ENVIRONMENT.format(dict(self._environment), bootstrap.IMPORTED, EARLY, str(self)),)


class _Descriptor:
    """A descriptor as an argument of a process, in which it arrives as a number."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        # Only while the process is being started: else multiprocessing serves the descriptor from a thread and a
        # listening socket, which remain.
        return bootstrap.detach, (DupFd(self._fd),)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in this thread; a child that is started meanwhile inherits that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
