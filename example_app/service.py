"""A service of the examples in a process of its own, as the demonstrations and the tests start it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
START_TIMEOUT = 120.0
STOP_TIMEOUT = 15.0


class ServiceDied(Exception):
    """The service ended; the message has its log."""


class Service:
    """An application in a process of its own, under uvicorn.

    Args:
        application: Where it is, such as ``example_app.main:app``.
        port: Its port.
        log: File for its output.
        environment: Variables beside those of this process.
    """

    def __init__(
        self, application: str, port: int, log: IO[bytes], environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        self.log = log
        self.url = f"http://{HOST}:{port}"
        command = [sys.executable, "-m", "uvicorn", application, "--host", HOST, "--port", str(port)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdout=log, stderr=subprocess.STDOUT
        )

    def wait_until_ready(self) -> None:
        """Wait until the probe responds 200, and show the time."""
        begun = time.monotonic()
        with httpx.Client(base_url=self.url, timeout=5) as client:
            while not is_ready(client):
                waited = time.monotonic() - begun
                if waited > START_TIMEOUT:
                    raise ServiceDied(f"not ready after {START_TIMEOUT:.0f} s\n{self.read_log()}")
                show(f"Starting the service and its worker processes ... {waited:.0f} s")
                self.wait(0.1)
        show(f"Starting the service and its worker processes ... ready after {time.monotonic() - begun:.1f} s", True)

    def wait(self, seconds: float | None) -> None:
        """Wait while the service runs.

        Raises:
            ServiceDied: The service ended.
        """
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise ServiceDied(f"the service ended with exit status {code}; its log:\n{self.read_log()}")

    def read_log(self) -> str:
        """Return the output of the service so far."""
        # Not with seek(): the service has the same position in the file, and would write there.
        return os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0).decode(errors="replace")

    def stop(self) -> None:
        """Stop the service with SIGTERM, and kill it if it does not end."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def is_ready(client: httpx.Client) -> bool:
    """Return whether the probe responds 200; False also while the service does not listen yet."""
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def show(text: str, final: bool = False) -> None:
    """Print a line that the next one replaces. Into a file, print only final lines."""
    if sys.stdout.isatty():
        print(f"\r\x1b[2K{text}", end="\n" if final else "", flush=True)
    elif final:
        print(text, flush=True)


def choose_port(wanted: int) -> int:
    """Return the wanted port, or a free one if the port is in use."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # The server sets it too: a port in TIME_WAIT after the last run is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                print(f"Port {wanted} is in use; another port is chosen.", flush=True)
            else:
                return int(probe.getsockname()[1])
    raise OSError("no port is free")


@contextmanager
def running_service(
    application: str, port: int, environment: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Start the service, and stop it at the end in any case.

    Args:
        application: As for `Service`.
        port: Its port; another one is chosen if it is in use.
        environment: As for `Service`.
    """
    with tempfile.TemporaryFile() as log:
        service = Service(application, choose_port(port), log, environment)
        try:
            yield service
        finally:
            service.stop()
