"""Starts the pipeline process of a SocketFlow."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from ..engine.options import EngineOptions
from ..engine.shared.handshake import Hello
from ..engine.shared.host_lock import HostLock
from ..engine.shared.plan import make_plan
from ..engine.shared.process import start_pipeline
from ..engine.shared.rendezvous import RETRY_TIME, SocketRendezvous
from ..engine.shared.socket_path import make_directory
from ..engine.system.peer import open_own_pidfd
from ..exceptions import ConfigurationError, StartError, describe_exit

END_TIME = 5.0
"""Seconds that a pipeline process has to end itself when its start has failed."""


def start_owned(options: EngineOptions, path: Path) -> subprocess.Popen[bytes]:
    """Start a pipeline process that this process owns, and block until its workers are ready.

    Args:
        options: What the flow declares.
        path: Where it listens.

    Raises:
        StartError, StartTimeout: As for `Flow.start`; nothing is left running.
        ConfigurationError: Another pipeline process listens there, or the flow cannot have one.
    """
    deadline = time.monotonic() + options.start_timeout
    make_directory(path.parent)
    lock_fd = _take_lock(HostLock(path), deadline)
    owner_fd = -1
    try:
        owner_fd = open_own_pidfd()
        process = start_pipeline(make_plan(options), str(path), lock_fd, owner_fd)
    finally:
        os.close(lock_fd)
        if owner_fd >= 0:
            os.close(owner_fd)
    try:
        _Readiness(options, path, process).connect(deadline).close()
    except BaseException:
        _end(process)
        raise
    return process


def limited(options: EngineOptions, timeout: float | None) -> EngineOptions:
    """Return options with another limit of the start.

    Args:
        options: What the flow declares.
        timeout: Seconds in which all workers must be ready; None: as declared.
    """
    return options if timeout is None else replace(options, start_timeout=timeout)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a pipeline process whose start has failed, or is not waited for; it removes its socket if it has the time."""
    process.terminate()
    try:
        process.wait(END_TIME)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _take_lock(lock: HostLock, deadline: float) -> int:
    """Take the lock of a path; a pipeline process whose owner was killed has it until its tasks have ended."""
    while (fd := lock.take()) is None:
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"another pipeline process listens beside {lock.file}, which it has locked: stop it, or choose another "
                "path with the environment variable _SOCKET_PATH, which begins with the name of the SocketFlow"
            )
        time.sleep(RETRY_TIME)
    return fd


class _Readiness(SocketRendezvous):
    """Waits until a pipeline process that this one has started is ready."""

    def __init__(self, options: EngineOptions, path: Path, process: subprocess.Popen[bytes]) -> None:
        version = sys.modules[__name__.partition(".")[0]].__version__
        hello = Hello(version, options.name, "", os.getpid())
        super().__init__(hello, str(path), tuple(name for name, _ in options.steps))
        self._process = process

    def _on_absence(self) -> None:
        if self._process.poll() is not None:
            raise StartError(
                f"the pipeline process of flow {self.hello.flow} {describe_exit(self._process.returncode)} while it "
                "started; its output says why"
            )
