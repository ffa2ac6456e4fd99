"""One template process, from its start to its end, and the workers that are forked from it."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence

from ...exceptions import StartError
from ..child.program import ProgramFile
from ..child.template import FORKED, STATUS, ForkRequest, Loaded
from ..child.trace import DUMP_SIGNAL, create_trace, read_trace
from ..wire.descriptor_channel import DescriptorChannel
from .environment import THREAD_VARIABLES
from .group import ProcessGroup
from .process import Descriptors, ReportedProcess, SpawnedProcess
from .sentinel import Sentinel

_DUMP_TIME = 0.5
"""Seconds that a template that hangs gets to write its stack before it is killed."""

_WAKE_INTERVAL = 0.5
"""Seconds after which a waiting thread counts the time; what a pause adds to them does not count."""


class ForkedProcess(ReportedProcess):
    """A worker that was forked from a template.

    Args:
        pid: The process id.
        pidfd: A pidfd of it; None where the system has none.
        status_fd: The read end of the pipe with its exit status.
    """

    def __init__(self, pid: int, pidfd: int | None, status_fd: int) -> None:
        super().__init__()
        self.pid = pid
        self._pidfd = pidfd
        self._status_fd: int | None = status_fd

    def open_pidfd(self) -> int:
        # Not opened here: the template may have reaped the worker already, and its number may be another process's.
        if self._pidfd is None:
            return super().open_pidfd()
        pidfd, self._pidfd = self._pidfd, None
        return pidfd

    @property
    def status_fd(self) -> int | None:
        return self._status_fd

    def _read_status(self, status_fd: int) -> int | None:
        data = os.read(status_fd, STATUS.size)
        return STATUS.unpack(data)[0] if data else None

    def close(self) -> None:
        self.exit_code()
        for fd in (self._pidfd, self._status_fd):
            if fd is not None:
                os.close(fd)
        self._pidfd = self._status_fd = None


class TemplateProcess:
    """A template process. One thread at a time calls it, but for `kill`.

    It starts when the object is made.

    Args:
        flow: Name of the flow.
        prelude: Makes an interpreter like the one in which its code was pickled.
        loader: The pickled function of the user.
        programs: What the workers of the steps run.
        lifeline_fd: Read end of a pipe whose write end only this process has.
        on_end: Called with this object, once, when the process has ended and `sentinel` is attached.

    Attributes:
        pid: Its process id.
        sentinel: Watches it.
        has_ended: Whether its end has been reported.

    Raises:
        OSError: No descriptor or no memory is left.
    """

    def __init__(
        self,
        flow: str,
        prelude: bytes,
        loader: ProgramFile,
        programs: Sequence[ProgramFile],
        lifeline_fd: int,
        on_end: Callable[[TemplateProcess], None],
    ) -> None:
        self._programs = [program for program in programs if program.fd >= 0]  # not those of replaced handlers
        self.has_ended = False
        self._on_end = on_end
        self._closing = threading.Lock()
        self._is_closed = False
        self._stack = ""
        with contextlib.ExitStack() as undo:
            self._trace_fd = create_trace()
            undo.callback(os.close, self._trace_fd)
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                fds = self._trace_fd, lifeline_fd, loader.fd, *(program.fd for program in self._programs)
                # A pool of threads that exists at the fork does not exist after it.
                process = SpawnedProcess(theirs, fds, f"{flow}:template", dict.fromkeys(THREAD_VARIABLES, "1"))
            self._process = process
            self._group = ProcessGroup(process)
            self.pid = process.pid
            undo.callback(self._reap)
            self.sentinel = Sentinel(self.note_end)
            self.sentinel.adopt(self._group)
            with contextlib.suppress(OSError):  # it has ended, which `wait_loaded` reports
                ours.sendall(prelude)
            undo.pop_all()
        self._channel = DescriptorChannel(ours)

    @property
    def exit_code(self) -> int | None:
        """The exit status; None while it runs."""
        return self._group.exit_code()

    def wait_loaded(self, timeout: float) -> Loaded:
        """Wait until it has loaded, or failed to.

        Args:
            timeout: Seconds.

        Raises:
            EOFError: It has ended.
            TimeoutError: It takes longer.
        """
        body, _ = self._receive(timeout)
        loaded: Loaded = pickle.loads(body)
        return loaded

    def fork(
        self,
        program: ProgramFile,
        sock: socket.socket,
        descriptors: Descriptors,
        environment: dict[str, str],
        timeout: float,
    ) -> ForkedProcess:
        """Start a worker.

        Args:
            program: What it runs.
            sock: Its end of the channel.
            descriptors: What it gets beside that.
            environment: Variables to set.
            timeout: Seconds in which the template must answer.

        Raises:
            ConnectionError: The template has ended before; nothing is started.
            EOFError: It has ended meanwhile, and the worker ends, too.
            TimeoutError: It does not answer in time.
            StartError: The template has no process, no memory or no descriptor left for it.
            OSError: This process has no descriptor left.
        """
        index = self._programs.index(program) if program in self._programs else None
        read_fd, write_fd = os.pipe()
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, read_fd)
            try:
                request = pickle.dumps(ForkRequest(index, environment))
                self._channel.send(request, [sock.fileno(), *descriptors, write_fd])
            finally:
                os.close(write_fd)
            body, fds = self._receive(timeout)
            pid, error = FORKED.unpack(body)
            if error:
                raise StartError(f"template {self.pid} cannot fork a worker: {os.strerror(error)}", pid=self.pid)
            undo.pop_all()
        return ForkedProcess(pid, fds[0] if fds else None, read_fd)

    def _receive(self, timeout: float) -> tuple[bytes, list[int]]:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        if self._group.pidfd is not None:  # a process that the function has started may hold the channel open
            poll.register(self._group.pidfd, select.POLLIN)
        waited = 0.0
        while waited < timeout:
            interval = min(_WAKE_INTERVAL, timeout - waited)
            ready = {fd for fd, _ in poll.poll(math.ceil(interval * 1000))}
            if self._channel.fileno() in ready:
                return self._channel.receive()
            if ready:
                raise EOFError
            waited += interval
        raise TimeoutError

    def wait_end(self, timeout: float) -> None:
        """Wait for ``timeout`` seconds at most until it has ended by itself, for its own exit status."""
        self._process.wait(timeout)

    def dump(self) -> str:
        """Return its stack."""
        with contextlib.suppress(ProcessLookupError):
            self._group.signal_leader(DUMP_SIGNAL)
        deadline = time.monotonic() + _DUMP_TIME
        while not (text := self.trace()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return text

    def trace(self) -> str:
        """Return the stack that it has written; an empty string if it has written none."""
        return self._stack if self._is_closed else read_trace(self._trace_fd)

    def kill(self) -> None:
        """Kill it and what the function of the user has started, without waiting; in any thread."""
        with self._closing:
            if not self._is_closed:
                self._group.signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill it, wait for its end, and close the descriptors. Its exit status and its stack remain known.

        In the thread of the event loop if the sentinel is attached.
        """
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            self._reap()
            self._stack = read_trace(self._trace_fd)
            self.sentinel.close()
            self._channel.close()
            os.close(self._trace_fd)

    def forget(self) -> None:
        """Close the descriptors only: in a forked child, which does not own it."""
        if not self._is_closed:
            self._channel.close()
            os.close(self._trace_fd)
            self.sentinel.forget()

    def note_end(self) -> None:
        """Report its end, where the system has no pidfd for `sentinel`."""
        self.has_ended = True
        self._on_end(self)

    def _reap(self) -> None:
        self._group.signal(signal.SIGKILL)
        self._group.reap()
