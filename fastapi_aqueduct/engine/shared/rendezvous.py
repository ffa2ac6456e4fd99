"""How an API process comes to a connection with a pipeline process, which it may have to start."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from ...exceptions import StartError, StartTimeout
from ...logger import log
from ..timing import DEFAULT_TIMING, Timing
from .handshake import ClientEnd, HandshakeError, Hello, NoAnswer, greet
from .host_lock import HostLock, held_beside
from .server_identity import ServerIdentity
from .socket_path import check_directory, check_path, host_directory

RETRY_TIME = 0.02
"""Seconds until the next try to connect."""

_REAP_TIME = 5.0
"""Seconds in which the exit code of a process that has freed its lock is known."""

Launch = Callable[[str, int], "subprocess.Popen[bytes]"]
"""Starts a pipeline process, given the path of its socket and the descriptor of its lock, which it inherits."""


class Rendezvous(ABC):
    """Connects an API process with the pipeline process of a flow, again and again. Threads may use it.

    Args:
        hello: What this process says of itself.
        timing: The times of the engine.
    """

    def __init__(self, hello: Hello, timing: Timing = DEFAULT_TIMING) -> None:
        self.hello = hello
        self.timing = timing
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def connect(self, deadline: float) -> ClientEnd:
        """Connect, and wait until the pipeline has started; blocks.

        Args:
            deadline: When that must have happened, on the clock of `time.monotonic`.

        Returns:
            The connection; the caller closes it.

        Raises:
            StartError: The start of the pipeline failed, it refuses this process, or `cancel` was called.
            StartTimeout: There was no pipeline in time.
        """
        while True:
            if self._cancelled.is_set():
                raise StartError(f"the start of flow {self.hello.flow} was cancelled")
            try:
                end = self._try(deadline)
            except StartError:
                raise  # a StartTimeout is an OSError, too
            except (HandshakeError, OSError) as exc:
                raise self._error(exc) from exc
            if end is not None:
                return end
            if time.monotonic() > deadline:
                raise StartTimeout(f"flow {self.hello.flow} has no pipeline process in time: {self.situation()}")
            self._cancelled.wait(RETRY_TIME)

    def resume(self) -> None:
        """Let `connect` work again after `cancel`."""
        self._cancelled.clear()

    def cancel(self) -> None:
        """End a `connect` that is under way in another thread, and each later one until `resume`."""
        self._cancelled.set()
        with self._lock:
            if self._socket is not None:
                with contextlib.suppress(OSError):  # the other side is gone
                    self._socket.shutdown(socket.SHUT_RDWR)

    @abstractmethod
    def situation(self) -> str:
        """Say why there is no pipeline yet, and what can be done about it."""

    @abstractmethod
    def _path(self) -> str | None:
        """Return the path of the socket; None if it cannot exist yet.

        Raises:
            StartError: Its directory cannot be used.
        """

    @abstractmethod
    def _on_absence(self) -> None:
        """Do what can be done when no process listens."""

    @abstractmethod
    def _on_welcome(self, end: ClientEnd) -> None:
        """Look at a connection before it is used; close it if it cannot be."""

    def _try(self, deadline: float) -> ClientEnd | None:
        path = self._path()
        sock = None if path is None else _dial(path, deadline)
        if sock is None:
            self._on_absence()
            return None
        with self._lock:
            self._socket = sock
        try:
            # Else `cancel` may have come between the look at it and here.
            end = None if self._cancelled.is_set() else greet(sock, self.hello, deadline + self.timing.answer_grace)
        except NoAnswer:
            return None
        finally:
            with self._lock:
                self._socket = None
        if end is None:
            sock.close()
            return None
        self._on_welcome(end)
        return end

    def _error(self, cause: Exception) -> StartError:
        return StartError(f"flow {self.hello.flow} cannot use its pipeline process: {cause}")


class SocketRendezvous(Rendezvous):
    """Connects with a pipeline process that others start, and waits until they have.

    Args:
        hello: What this process says of itself.
        path: The path of the socket.
        steps: Names of the steps that this process declares.
        timing: The times of the engine.

    Raises:
        ConfigurationError: The path cannot be that of a socket.
    """

    def __init__(self, hello: Hello, path: str, steps: tuple[str, ...], timing: Timing = DEFAULT_TIMING) -> None:
        check_path(path)
        super().__init__(hello, timing)
        self._given = path
        self._steps = steps
        self._waits_since: float | None = None

    def situation(self) -> str:
        """Say why there is no pipeline yet, and what can be done about it."""
        return f"no process listens at {self._given}; `fastapi-aqueduct serve` runs one"

    def _path(self) -> str | None:
        try:
            check_directory(os.path.dirname(self._given))
        except FileNotFoundError:
            return None
        return self._given

    def _on_absence(self) -> None:
        now = time.monotonic()
        if self._waits_since is None:
            self._waits_since = now
        elif now - self._waits_since > self.timing.patience:
            self._waits_since = float("inf")
            log.warning("flow %s waits for its pipeline process: %s", self.hello.flow, self.situation())

    def _on_welcome(self, end: ClientEnd) -> None:
        self._waits_since = None
        steps = end.welcome.steps
        if steps != self._steps:
            end.close()
            raise StartError(
                f"the pipeline process {end.welcome.pid} at {self._given} runs flow {self.hello.flow} with the steps "
                f"{', '.join(steps)}, and this process declares {', '.join(self._steps)}: restart the one with the "
                "older code"
            )


class HostRendezvous(Rendezvous):
    """Connects with the pipeline process of this server, code and flow. The first process that finds none starts it.

    Args:
        hello: What this process says of itself; with a fingerprint.
        launch: Starts the pipeline process.
        timing: The times of the engine.

    Raises:
        StartError: There is no directory for the socket.
    """

    def __init__(self, hello: Hello, launch: Launch, timing: Timing = DEFAULT_TIMING) -> None:
        super().__init__(hello, timing)
        self._launch = launch
        self._server = ServerIdentity.read()
        self._process: subprocess.Popen[bytes] | None = None
        directory = host_directory()
        self._file = directory / f"{self._server.digest(hello.flow)}-{hello.fingerprint[:12]}.sock"
        self._host_lock = HostLock(self._file)

    def connect(self, deadline: float) -> ClientEnd:
        """As `Rendezvous.connect`; start the pipeline process if there is none."""
        self._process = None  # one that failed is no reason not to try again
        return super().connect(deadline)

    def situation(self) -> str:
        """Say why there is no pipeline yet, and what can be done about it."""
        return f"the process that holds {self._host_lock.file} does not listen at {self._file}"

    def _path(self) -> str | None:
        check_directory(self._file.parent)
        return str(self._file)

    def _on_absence(self) -> None:
        fd = self._host_lock.take()
        if fd is None:
            return
        try:
            if self._process is not None and self._exit_code(self._process) != 0:
                raise self._died(self._process)
            self._warn_of_others()
            self._process = self._launch(str(self._file), fd)
        finally:
            os.close(fd)
        # It is a child of this process but not its own: it may live longer, and is reaped when it does not.
        threading.Thread(target=self._process.wait, name="aqueduct-pipeline", daemon=True).start()

    def _on_welcome(self, end: ClientEnd) -> None:
        self._process = None

    def _exit_code(self, process: subprocess.Popen[bytes]) -> int | None:
        # The lock is free, so it has ended, though the system may not have said so yet. It may have served others, and
        # ended with the last of them.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_TIME)
        return process.returncode

    def _died(self, process: subprocess.Popen[bytes]) -> StartError:
        return StartError(
            f"the pipeline process {process.pid} of flow {self.hello.flow} ended with exit code {process.returncode} "
            "before it was ready; its output says why",
            pid=process.pid,
            exit_code=process.returncode,
        )

    def _warn_of_others(self) -> None:
        prefix = self._file.name.partition("-")[0]
        for other in held_beside(self._file):
            if other.name.startswith(f"{prefix}-"):
                log.warning(
                    "flow %s gets a second pipeline process in the server with the parent %d: its code or options have "
                    "changed. The first one ends with its last API process; until then all models are in memory twice",
                    self.hello.flow,
                    self._server.parent,
                )


def _dial(path: str, deadline: float) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A full backlog makes a blocking `connect` wait.
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, TimeoutError, BlockingIOError):
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock
