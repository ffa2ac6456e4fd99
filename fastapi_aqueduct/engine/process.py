"""One worker process, seen from the process that started it."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.util  # its atexit function joins processes, so it must be older than the one of flow
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Literal, Protocol

from . import bootstrap

StartMethod = Literal["spawn", "forkserver"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What numeric libraries ask for the size of their thread pools, all of them while they are imported."""


class Process(Protocol):
    """A child process, however it was made."""

    pid: int

    def exit_code(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process is alive."""

    def wait(self, timeout: float) -> int | None:
        """Wait for the end, for ``timeout`` seconds at most, and return the exit status."""


class SpawnedProcess:
    """A worker in a fresh interpreter.

    Args:
        sock: The worker's end of the channel.
        memory_fd: Descriptor of the shared memory.
        trace_fd: Descriptor of the file for its stack.
        label: Shown in process lists.
        environment: Variables to add.
    """

    def __init__(
        self, sock: socket.socket, memory_fd: int, trace_fd: int, label: str, environment: dict[str, str]
    ) -> None:
        command = [sys.executable, *_interpreter_options(), str(Path(bootstrap.__file__))]
        inherited = (sock.fileno(), memory_fd, trace_fd)
        with interrupts_blocked():
            self._popen = subprocess.Popen(
                [*command, *map(str, inherited), label],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                env={**os.environ, **environment},
            )
        self.pid = self._popen.pid

    def exit_code(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process is alive."""
        return self._popen.poll()

    def wait(self, timeout: float) -> int | None:
        """Wait for the end, for ``timeout`` seconds at most, and return the exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
        return self._popen.returncode


class ForkserverProcess:
    """A worker forked from a process that has imported the package already.

    Args:
        sock: The worker's end of the channel.
        memory_fd: Descriptor of the shared memory.
        trace_fd: Descriptor of the file for its stack.
        label: Name of the process.
        environment: Variables to set.
    """

    def __init__(
        self, sock: socket.socket, memory_fd: int, trace_fd: int, label: str, environment: dict[str, str]
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fastapi_aqueduct.engine.worker"])
        self._process = context.Process(
            target=bootstrap.forked,
            args=(sock, _Descriptor(memory_fd), _Descriptor(trace_fd), environment),
            name=label,
            daemon=False,
        )
        with interrupts_blocked():
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process is alive."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int | None:
        """Wait for the end, for ``timeout`` seconds at most, and return the exit status."""
        self._process.join(timeout)
        return self._process.exitcode


class _Descriptor:
    """A descriptor that travels with the process it is an argument of, and arrives as a number."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        # Not before the process is being started: else multiprocessing serves the descriptor from a thread and a
        # listening socket, which stay for good.
        return bootstrap.detach, (DupFd(self._fd),)


def start_process(
    method: StartMethod, sock: socket.socket, memory_fd: int, trace_fd: int, label: str, environment: dict[str, str]
) -> Process:
    """Start a worker; takes some milliseconds, so not for the event loop's thread."""
    made = SpawnedProcess if method == "spawn" else ForkserverProcess
    return made(sock, memory_fd, trace_fd, label, environment)


def send_signal(process: Process, signum: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    # The exit status is asked first: until it has been read, the pid cannot belong to anybody else.
    if process.exit_code() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signum)


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


def available_cores() -> int:
    """Count the cores this process may use: the affinity mask and the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))


def _interpreter_options() -> list[str]:
    return [f"-W{option}" for option in sys.warnoptions] + [
        f"-X{name}" if value is True else f"-X{name}={value}" for name, value in sys._xoptions.items()
    ]
