"""Entry point of a template process: it loads once what the workers of a flow share, and forks them.

It has one thread and no event loop, since a fork has neither the threads of its parent nor an event loop of its own. A
worker is a fork of it that goes on in `fastapi_aqueduct.engine.child.main`. Memory that neither writes to exists once.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import inspect
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from ...exceptions import ConfigurationError
from ..system.malloc import trim_heap
from ..wire.descriptor_channel import DescriptorChannel
from ..wire.failures import pack_failure
from .main import run
from .numeric_threads import apply_thread_variables, find_thread_controls, renew_random_states
from .parent_death import ParentDeathSignal
from .program import Program, read_pickle, read_program
from .session import START_FAILURE
from .trace import write_trace_on_faults

STATUS = struct.Struct("<i")
"""The exit status of a worker, as the template writes it into the pipe for it; negative for a signal."""

FORKED = struct.Struct("<ii")
"""The answer to a request: the process id of the worker, or 0 and the number of the error."""

_POLL_INTERVAL = 0.05
"""Seconds between two looks at the workers where the system has no pidfd."""


class Loaded(NamedTuple):
    """The answer of a template that has loaded.

    Attributes:
        failure: The payload of a frame of kind FAILED; empty when it can fork workers.
        lost: The type of what the function has returned and nothing keeps; empty when nothing is lost.
    """

    failure: bytes = b""
    lost: str = ""


class ForkRequest(NamedTuple):
    """A request for a worker. With it come its end of the channel, its descriptors, and a pipe for its exit status.

    Attributes:
        program: Index of its program among those that the template has loaded; None: the worker reads it.
        environment: Environment variables to set.
    """

    program: int | None
    environment: dict[str, str]


PrepareFork = Callable[[socket.socket, dict[str, str]], object]
"""Prepares a fork for a worker: `bootstrap.prepare_fork`."""


def main(
    prepare_fork: PrepareFork, sock: socket.socket, trace_fd: int, lifeline: int, loader_fd: int, *program_fds: int
) -> None:
    """Load, then fork workers until the API process closes its end or has ended.

    Args:
        prepare_fork: Prepares a fork for a worker.
        sock: The template's end of a `DescriptorChannel`.
        trace_fd: Descriptor of the file for its stack.
        lifeline: Descriptor of a pipe that ends with the API process.
        loader_fd: Descriptor of the pickled function of the user.
        *program_fds: Descriptors of the programs of the steps.
    """
    end = _End()
    write_trace_on_faults(trace_fd)
    death_signal = ParentDeathSignal(lifeline)
    death_signal.arm()
    channel = DescriptorChannel(sock)

    def close_copies() -> None:
        channel.close()
        death_signal.close()
        os.close(trace_fd)

    worker: Callable[[], None] | None = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        programs = _load(channel, loader_fd, program_fds, end)
        worker = _Forks(channel, programs, prepare_fork, close_copies).serve()
    if worker is not None:
        end.note(worker)


class _End:
    """Ends the process without the last steps of the interpreter, which would write to all objects it has loaded.

    A worker would get copies of their pages then, and so use the memory that it has saved.

    Attributes:
        exit_code: The exit status.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        atexit.register(self._exit)  # the first function, so the last that is called

    def note(self, worker: Callable[[], None]) -> None:
        """Run a worker, and note with which exit status the process ends."""
        self.exit_code = 1
        try:
            worker()
        except SystemExit as exc:
            self.exit_code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
            raise
        self.exit_code = 0

    def _exit(self) -> None:
        _flush()
        os._exit(self.exit_code)


def _load(channel: DescriptorChannel, loader_fd: int, program_fds: Sequence[int], end: _End) -> list[Program]:
    """Import the handlers, call the function of the user, and report that.

    Raises:
        SystemExit: This failed, or a fork of what was loaded would not work; the API process has been sent why.
        OSError: The API process has ended.
    """
    phase = "the import of its handlers"
    try:
        programs = [read_program(fd) for fd in program_fds]
        loader = read_pickle(loader_fd)
        name = getattr(loader, "__qualname__", type(loader).__qualname__)
        phase = f"template ({name})"
        loaded = Loaded(lost=_call(loader, name))
        find_thread_controls()
        _check_forkable(name)
    except BaseException as exc:
        channel.send(pickle.dumps(Loaded(pack_failure(phase, exc))))
        end.exit_code = START_FAILURE
        sys.exit(START_FAILURE)
    gc.collect()
    gc.freeze()  # else the first collection of each worker would write to every object
    trim_heap()
    channel.send(pickle.dumps(loaded))
    return programs


def _call(loader: Callable[[], Any], name: str) -> str:
    """Call the function of the user.

    Returns:
        The type of what it has returned, if nothing keeps that.
    """
    value = loader()
    if inspect.isawaitable(value):
        raise ConfigurationError(f"{name} returns a coroutine, and a template has no event loop: use a plain function")
    return type(value).__qualname__ if value is not None and sys.getrefcount(value) <= _own_references() else ""


def _own_references() -> int:
    """Return the references to a value that only a local variable keeps: 2 up to Python 3.13, 1 in 3.14."""
    value = object()
    return sys.getrefcount(value)


def _check_forkable(name: str) -> None:
    """Check that what was loaded works in a fork.

    Raises:
        ConfigurationError: It does not.
    """
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads:
        raise ConfigurationError(
            f"after {name} a thread is still running in the template ({', '.join(threads)}), and workers, which are "
            "forks of it, do not get threads: end it in the function, or start it in on_start"
        )
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        raise ConfigurationError(
            f"{name} has initialised CUDA in the template, and CUDA does not work in workers, which are forks of it: "
            'load the weights into main memory (map_location="cpu"), and move them to the device in on_start'
        )


class _Forks:
    """Forks workers on request, and reports how they end.

    Args:
        channel: Where requests come from.
        programs: The programs that were loaded.
        prepare_fork: Prepares a fork for a worker.
        close_copies: Closes in a worker what belongs to the template.
    """

    def __init__(
        self,
        channel: DescriptorChannel,
        programs: Sequence[Program],
        prepare_fork: PrepareFork,
        close_copies: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._programs = programs
        self._prepare_fork = prepare_fork
        self._close_copies = close_copies
        self._workers: dict[int, tuple[int, int | None]] = {}  # by process id: pipe for the status, and pidfd
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)

    def serve(self) -> Callable[[], None]:
        """Serve requests.

        Returns:
            In a new worker: a function that runs it.

        Raises:
            EOFError, OSError: The API process has closed its end or has ended.
        """
        while True:
            has_pidfds = all(pidfd is not None for _, pidfd in self._workers.values())
            ready = {fd for fd, _ in self._poll.poll(None if has_pidfds else _POLL_INTERVAL * 1000)}
            for pid, (_, pidfd) in list(self._workers.items()):
                if pidfd is None or pidfd in ready:
                    self._reap(pid)
            if self._channel.fileno() in ready:
                worker = self._serve_request()
                if worker is not None:
                    return worker

    def _serve_request(self) -> Callable[[], None] | None:
        try:
            body, fds = self._channel.receive()
            if not fds:
                self._channel.send(FORKED.pack(0, errno.EMFILE))
                return None
            with contextlib.ExitStack() as copies, contextlib.ExitStack() as undo:
                for fd in fds[:-1]:
                    copies.callback(os.close, fd)
                undo.callback(os.close, fds[-1])
                gate = _Gate()
                copies.callback(gate.close)
                pid = _fork()
                if pid == 0:
                    copies.pop_all()
                    undo.pop_all()
                    return self._become_worker(pickle.loads(body), fds, gate)
                self._workers[pid] = fds[-1], _watch(pid)
                undo.pop_all()
                self._answer(pid)
                gate.open()
        except OSError as exc:
            if isinstance(exc, ConnectionError):
                raise  # the API process has ended
            self._channel.send(FORKED.pack(0, exc.errno or errno.EIO))
        return None

    def _answer(self, pid: int) -> None:
        _, pidfd = self._workers[pid]
        if pidfd is not None:
            self._poll.register(pidfd, select.POLLIN)
        self._channel.send(FORKED.pack(pid, 0), [] if pidfd is None else [pidfd])

    def _become_worker(self, request: ForkRequest, fds: list[int], gate: _Gate) -> Callable[[], None]:
        """Turn this process, a fork of the template, into a worker.

        Returns:
            A function that runs it, when the stack of the template is unwound.
        """
        sock_fd, memory_fd, trace_fd, lifeline, program_fd, status_fd = fds
        write_trace_on_faults(trace_fd)
        self._close_copies()
        os.close(status_fd)
        for other_fd, pidfd in self._workers.values():
            os.close(other_fd)
            if pidfd is not None:
                os.close(pidfd)
        gate.wait()
        sock = socket.socket(fileno=sock_fd)
        self._prepare_fork(sock, request.environment)
        apply_thread_variables()
        renew_random_states()
        if request.program is None:
            read = partial(read_program, program_fd)
        else:
            os.close(program_fd)
            read = partial(self._programs.__getitem__, request.program)
        return partial(run, sock, memory_fd, trace_fd, lifeline, read)

    def _reap(self, pid: int) -> None:
        """Report how a worker has ended, if it has."""
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            return
        status_fd, pidfd = self._workers.pop(pid)
        with contextlib.suppress(OSError):  # the API process does not wait for it
            os.write(status_fd, STATUS.pack(os.waitstatus_to_exitcode(status)))
        os.close(status_fd)
        if pidfd is not None:
            self._poll.unregister(pidfd)
            os.close(pidfd)


def _watch(pid: int) -> int | None:
    """Return a pidfd of a new worker; None where the system has none.

    Raises:
        OSError: No descriptor is left; the worker is killed.
    """
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)  # so does the worker: the API process may signal the group before that has run
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


class _Gate:
    """Lets a new worker begin when the API process can know of it.

    If the template is killed before that, the worker ends: the API process starts another one in its place, and two
    must not share a channel.
    """

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()

    def open(self) -> None:
        """Let the worker begin."""
        os.write(self._write_fd, b"\0")

    def wait(self) -> None:
        """Wait in the worker, and close its copies; end the process if the template has ended."""
        os.close(self._write_fd)
        if not os.read(self._read_fd, 1):
            os._exit(0)
        os.close(self._read_fd)

    def close(self) -> None:
        """Close both ends, in the template."""
        os.close(self._read_fd)
        os.close(self._write_fd)


def _fork() -> int:
    """Fork this process, whose buffers are empty then; return what fork(2) returns."""
    _flush()
    with warnings.catch_warnings():
        # Since Python 3.12, about threads: those of libraries, which must know about forks. Python's own are refused.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(Exception):
                stream.flush()
