"""Runs what is measured in a process group of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from typing import IO, Any, Self

DEADLINE = 60.0
"""Seconds in which a subject must say something."""


class Subject:
    """A Python program that says what is asked of it, one line of JSON at a time.

    Use it as a context manager: at the end its whole process group is killed, so that nothing of it is left to
    disturb the next one, however long its own way of stopping takes.

    Args:
        *arguments: For the interpreter.
    """

    def __init__(self, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
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
