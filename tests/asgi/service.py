"""A server in a process of its own, as it is started from a shell."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

from ..handlers import Gate
from ..support import DEADLINE, script_environment, wait_until, write_script

SOURCE = """
    import os

    from fastapi import FastAPI

    from fastapi_aqueduct import Aqueduct, Flow, FlowStep, flow_endpoint
    from tests.asgi.handlers import Brood, Held, Hold, Spin

    flow = Flow(FlowStep({handler}(), nprocs=2))
    app = FastAPI(lifespan=Aqueduct(flow, drain_delay={delay}).lifespan)

    @app.get("/hold")
    @flow_endpoint(flow, timeout_sec=60)
    async def hold(task: Held) -> str:
        return "finished"
"""

SERVERS = {
    "uvicorn": ["uvicorn", "main:app", "--port={port}"],
    "uvicorn-reload": ["uvicorn", "main:app", "--port={port}", "--reload"],
    "uvicorn-workers": ["uvicorn", "main:app", "--port={port}", "--workers=2"],
    "hypercorn": ["hypercorn", "main:app", "--bind=127.0.0.1:{port}"],
    "hypercorn-alone": ["hypercorn", "main:app", "--bind=127.0.0.1:{port}", "--workers=0"],
    "granian": ["granian", "main:app", "--interface=asgi", "--port={port}"],
    "gunicorn": ["gunicorn", "main:app", "--worker-class=asgi", "--no-control-socket", "--bind=127.0.0.1:{port}"],
}
"""How each is started."""


class Service:
    """A server that runs `SOURCE`.

    Args:
        directory: Where its module and its gates are.
        process: The server.
        port: Where it listens.
    """

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], port: int) -> None:
        self.directory = directory
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def probe(self, path: str = "/ready", timeout: float = 1.0) -> int | None:
        """Ask in a connection of its own, as a probe does; None when there is no answer.

        Args:
            path: What is asked for.
            timeout: Seconds; a few more, and hypercorn would cancel what is in flight: where it has processes and
                stops, they accept no connection, and its own process keeps the socket open.
        """
        with contextlib.suppress(httpx.TransportError):
            # Loading certificates takes longer than the answer, and this is called in loops while a server starts.
            return httpx.get(self.url + path, timeout=timeout, verify=False).status_code
        return None

    def hold(self, name: str = "gate") -> Request:
        """Send a request that is held at a gate, and wait until it is."""
        request = Request(f"{self.url}/hold?gate={self.directory}&name={name}")
        assert wait_until(Gate(self.directory, name).is_entered, DEADLINE)
        return request

    def log(self) -> str:
        """Return what the server has printed."""
        return (self.directory / "log").read_text()

    def processes(self, below: int = 0) -> set[int]:
        """List the processes below the server, or below another."""
        found: set[int] = set()
        new = {below or self.process.pid}
        while new:
            new = {child for pid in new for child in children(pid)} - found
            found |= new
        return found

    def workers(self) -> set[int]:
        """List the workers of the flow among them."""
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.processes()}
        return {pid for pid, command in commands.items() if b"bootstrap.py" in command}

    def interrupt(self) -> None:
        """Do what a terminal does on Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)


class Request:
    """A request whose answer a thread waits for.

    Args:
        url: What is asked for.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._result: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = httpx.get(self._url, timeout=DEADLINE, verify=False)
        except httpx.TransportError as exc:
            self._result = exc

    def result(self) -> Any:
        """Return the answer, or the exception when there was none."""
        self._thread.join(DEADLINE)
        return self._result


@contextlib.contextmanager
def serving(directory: Path, server: str, handler: str = "Hold", delay: float = 0.0) -> Iterator[Service]:
    """Run a server until the end of the context."""
    write_script(directory, SOURCE.format(handler=handler, delay=delay))
    with launched(directory, SERVERS[server]) as (process, port):
        service = Service(directory, process, port)
        try:
            assert wait_until(lambda: process.poll() is not None or service.probe() == 200, DEADLINE)
            assert process.poll() is None
            yield service
        except BaseException:
            print(service.log())
            raise


@contextlib.contextmanager
def launched(directory: Path, module: Iterable[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a server without waiting for it; whatever it leaves behind is killed at the end.

    Args:
        directory: Where it runs, and where its log comes.
        module: The module that is run, and its arguments, with a place for the port.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", *(word.format(port=port) for word in module)]
    with (
        open(directory / "log", "wb") as log,
        subprocess.Popen(
            command, cwd=directory, env=script_environment(), stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            yield process, port
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def children(pid: int) -> set[int]:
    """List the children of a process; none if it has ended."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found
