"""The client of all HTTP servers that are measured: wrk."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("load.lua")
TIMEOUT = 30.0
"""Seconds that one answer may take."""


@dataclass(frozen=True)
class Request:
    """What is sent again and again, and what must come back.

    Attributes:
        expected: The answer: its JSON, or its bytes.
        body: The file that holds the body; None: a GET without one.
        content_type: Of the body.
        path: Of the URL.
    """

    expected: Any
    body: Path | None = None
    content_type: str = "application/json"
    path: str = "/work"

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "GET" if self.body is None else "POST"

    def send(self, port: int) -> Any:
        """Send it once and return the answer, read as what is expected."""
        body = None if self.body is None else self.body.read_bytes()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{self.path}", body, {"Content-Type": self.content_type}, method=self.method
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            content = answer.read()
        return content if isinstance(self.expected, bytes) else json.loads(content)


@dataclass(frozen=True)
class Outcome:
    """What wrk saw.

    Attributes:
        requests: The number of answers.
        seconds: The time in which they came.
        p50: The median, in seconds.
        p99: The 99th percentile, in seconds.
        failed: Answers that were no success, and errors of the connections.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    failed: int

    @property
    def rate(self) -> float:
        """Successful answers per second."""
        return (self.requests - self.failed) / self.seconds


class Client:
    """Sends one request over several connections, each as soon as the one before it is answered.

    Args:
        connections: How many.
        seconds: How long; wrk knows whole seconds only.

    Raises:
        RuntimeError: wrk is not installed.
    """

    def __init__(self, connections: int, seconds: int = 1) -> None:
        self._program = shutil.which("wrk")
        if self._program is None:
            raise RuntimeError("wrk is not installed: apt-get install wrk")
        self.connections = connections
        self._seconds = seconds

    def run(self, port: int, request: Request) -> Outcome:
        """Load a server.

        Raises:
            RuntimeError: wrk failed.
        """
        body = [] if request.body is None else [request.body, request.content_type]
        command = [
            self._program,
            "--threads=1",
            f"--connections={self.connections}",
            f"--duration={self._seconds}s",
            f"--timeout={TIMEOUT:.0f}s",
            f"--script={SCRIPT}",
            f"http://127.0.0.1:{port}{request.path}",
            "--",
            request.method,
            *body,
        ]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=self._seconds + 2 * TIMEOUT
        )
        if done.returncode:
            raise RuntimeError(f"wrk ended with status {done.returncode}: {done.stderr or done.stdout}")
        return Outcome(**json.loads(done.stdout.splitlines()[-1]))
