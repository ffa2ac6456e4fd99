"""Runs what is measured in a process group of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import IO, Any, Self

DEADLINE = 60.0
"""Seconds in which a subject must say something."""


class Subject:
    """A Python program that says what is asked of it, one line of JSON at a time.

    Use it as a context manager: at the end its whole process group is killed, so that nothing of it is left to
    disturb the next one, however long its own way of stopping takes.

    Args:
        *arguments: For the interpreter.
        log: The file to which it writes; it cannot say anything then.
    """

    def __init__(self, *arguments: object, log: IO[str] | None = None) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=log or subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with self._process:
            self._process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def read_log(self) -> str:
        """Return what it has written to its log so far."""
        assert self._log is not None
        # Not with seek(): the processes have the same position in the file, and would write there.
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def wait(self, timeout: float) -> None:
        """Wait so long for its process group to end."""
        deadline = time.monotonic() + timeout
        while (self.is_alive or self._has_group()) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _has_group(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it; SIGSTOP and SIGCONT to its whole process group."""
        if number in (signal.SIGSTOP, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
        else:
            self._process.send_signal(number)

    def read(self) -> Any:
        """Wait for the next thing it says.

        Raises:
            RuntimeError: It ended, or said nothing for a long time.
        """
        stdout = self._process.stdout
        assert stdout is not None
        if not _is_readable(stdout):
            raise RuntimeError(f"process {self.pid} said nothing for {DEADLINE:.0f} s")
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"process {self.pid} ended with status {self._process.wait()}")
        return json.loads(line)


def _is_readable(stream: IO[bytes]) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return bool(selector.select(DEADLINE))


def say(value: object) -> None:
    """Say something to the benchmark; the counterpart of `Subject.read`."""
    print(json.dumps(value), flush=True)


def wait_for_end() -> None:
    """Stay as one is until the benchmark has seen enough."""
    sys.stdin.buffer.read()
