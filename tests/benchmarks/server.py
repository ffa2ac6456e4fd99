"""An HTTP server that is measured."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

from .processes import Footprint, processor_time, tree
from .subject import DEADLINE, Subject

STOP_TIMEOUT = 6.0
"""Seconds to end in; one package sleeps for three of them."""

API, PIPELINE, WORKER = "API process", "pipeline process", "worker"
"""The kinds of processes that a server of ours has."""

_ports = itertools.count(20_000)
"""Below those that the system gives out by itself."""


class Question(Protocol):
    """A request whose answer is known."""

    @property
    def expected(self) -> Any: ...
    def send(self, port: int) -> Any: ...


class Server:
    """One of `servers`, in processes of its own, suspended while it is not used.

    Its processes are stopped by a signal while another one is measured, since some packages poll even when idle.
    Use it as a context manager.

    Args:
        module: Name in `servers`.
        work: What it is to do.
    """

    def __init__(self, module: str, work: str) -> None:
        self.name = f"{module} {work}"
        self.port = _free_port()
        # Not a pipe, which would be full one day.
        self._log = tempfile.TemporaryFile("w+")
        self._subject = Subject("-m", f"{__package__}.servers.{module}", work, self.port, log=self._log)

    def __enter__(self) -> Self:
        self._subject.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.dismiss()
            self._subject.wait(STOP_TIMEOUT)
        finally:
            self._subject.__exit__(*exc_info)
            self._log.close()

    def dismiss(self) -> None:
        """Ask it to end: what is only killed leaves files and named memory behind."""
        self._subject.signal(signal.SIGCONT)
        self._subject.signal(signal.SIGTERM)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Resume it in this context, and suspend it again afterwards."""
        self._subject.signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._subject.signal(signal.SIGSTOP)

    def wait(self, request: Question, timeout: float = DEADLINE) -> None:
        """Wait until it answers a request.

        Args:
            request: The request.
            timeout: Seconds.

        Raises:
            RuntimeError: It does not, or the answer is wrong.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                answer = request.send(self.port)
                break
            except OSError as exc:  # it does not listen yet; a server may also listen before its workers are ready
                if time.monotonic() > deadline or not self._subject.is_alive:
                    raise RuntimeError(f"{self.name} does not answer: {exc}\n{self._subject.read_log()}") from exc
                time.sleep(0.05)
        if answer != request.expected:
            came, expected = str(answer)[:80], str(request.expected)[:80]
            raise RuntimeError(f"{self.name} answers {came} in place of {expected}\n{self._subject.read_log()}")

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._subject.pid

    def footprint(self) -> int:
        """Return the bytes that all its processes use."""
        return Footprint(tree(self._subject.pid)).total

    def processor_time(self) -> float:
        """Return the seconds that all its processes have computed."""
        return processor_time(tree(self._subject.pid))

    def processor_times(self) -> dict[str, float]:
        """Return the seconds that each kind of its processes has computed; it is a server of ours."""
        kinds: dict[str, list[int]] = {}
        for pid in tree(self._subject.pid):
            kinds.setdefault(_kind(Path(f"/proc/{pid}/cmdline").read_bytes()), []).append(pid)
        return {kind: processor_time(pids) for kind, pids in kinds.items()}


def _kind(command: bytes) -> str:
    if b"engine.shared.process" in command:
        return PIPELINE
    return WORKER if b"engine/child" in command else API


def _free_port() -> int:
    # Not any port that is free now: the system could give it to a client, or to another server, before ours has it.
    while True:
        port = next(_ports)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
