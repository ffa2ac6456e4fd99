"""How each server is started, and a service that runs under one."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..asgi.service import Service, launched
from ..support import DEADLINE

START_DEADLINE = 50.0
"""Seconds in which all of them, started at the same time, listen."""


@dataclass(frozen=True)
class Server:
    """One way to serve the application.

    Args:
        name: Tells it apart.
        command: The module that is run, and its arguments.
        application: Which of the two applications.
        drains: Whether it takes the rest of a body, and drops it, when the answer is there before the body. Others
            close the connection at once: a client that is still sending may see that and miss the answer.
        asks_first: Whether it says ``100 Continue`` only when the application wants the body.
        flaw: A pattern of what it logs through no fault of the application.
    """

    name: str
    command: tuple[str, ...]
    application: str = "app"
    drains: bool = False
    asks_first: bool = True
    flaw: str | None = None

    @property
    def module(self) -> list[str]:
        """The module that is run, and all its arguments."""
        module, *options = self.command
        return [module, f"tests.edge.application:{self.application}", *options]


def uvicorn(name: str, http: str, loop: str, application: str = "app") -> Server:
    """Describe a uvicorn."""
    return Server(name, ("uvicorn", "--port={port}", f"--http={http}", f"--loop={loop}"), application, drains=True)


UVICORN = uvicorn("uvicorn-httptools-uvloop", "httptools", "uvloop")
STARLETTE = uvicorn("starlette", "httptools", "uvloop", "plain")
HYPERCORN = Server(
    "hypercorn",
    ("hypercorn", "--bind=127.0.0.1:{port}", "--workers=0"),
    asks_first=False,
    # With HTTP/2 the rest of a body that has been answered ends the connection.
    flaw=r"ERROR:asyncio:Unhandled exception in client_connected_cb\n.*?KeyError: \d+\n[ +-]*\n",
)
GRANIAN = Server("granian", ("granian", "--interface=asgi", "--port={port}"))
SERVERS = (
    UVICORN,
    uvicorn("uvicorn-httptools-asyncio", "httptools", "asyncio"),
    uvicorn("uvicorn-h11-uvloop", "h11", "uvloop"),
    uvicorn("uvicorn-h11-asyncio", "h11", "asyncio"),
    STARLETTE,
    HYPERCORN,
    GRANIAN,
)


class EdgeService(Service):
    """The application under a server.

    Args:
        directory: Where its log is.
        process: The server.
        port: Where it listens.
        flaw: As of the server.
    """

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], port: int, flaw: str | None) -> None:
        super().__init__(directory, process, port)
        self.port = port
        self._flaw = flaw

    def errors(self, start: int) -> str:
        """Return what the log has from a position on, if there is a traceback or an error in it."""
        log = self.log()[start:]
        if self._flaw is not None:
            log = re.sub(self._flaw, "", log, flags=re.DOTALL)
        return log if "Traceback" in log or "ERROR" in log else ""

    def has_started(self) -> bool:
        """Tell whether it is ready, and that it is still there."""
        assert self.process.poll() is None, self.log()
        return self.probe() == 200

    def is_idle(self) -> bool:
        """Tell whether no task is in the flows and no memory is taken."""
        return not any(self.figures()[name] for name in ("in_flight", "blocks", "taken", "receiving", "streams"))

    def figures(self) -> dict[str, Any]:
        """Ask what the flow holds and has done, in a connection of its own."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)) as connection:
            connection.request("GET", "/figures")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found


@contextlib.contextmanager
def started(server: Server, directory: Path) -> Iterator[EdgeService]:
    """Start a server, without waiting for it."""
    with launched(directory, server.module) as (process, port):
        yield EdgeService(directory, process, port, server.flaw)
