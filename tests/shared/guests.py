"""What the tests of pipeline processes share: API processes that connect by hand."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fastapi_aqueduct
from fastapi_aqueduct.engine.shared.handshake import ClientEnd, Hello, NoAnswer, greet
from fastapi_aqueduct.engine.wire.frames import Kind, pack

from ..support import DEADLINE


def hello(flow: str) -> Hello:
    """Return the hello of this process."""
    return Hello(fastapi_aqueduct.__version__, flow, "", os.getpid())


def connect(path: Path, flow: str) -> ClientEnd:
    """Connect to a pipeline process as an API process does, and wait for its answer."""
    deadline = time.monotonic() + 2 * DEADLINE
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
            return greet(sock, hello(flow), deadline)
        except (NoAnswer, FileNotFoundError, ConnectionRefusedError):
            sock.close()
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextmanager
def connected(path: Path, flow: str) -> Iterator[ClientEnd]:
    """Be connected as an API process, which vanishes at the end of the context."""
    end = connect(path, flow)
    try:
        yield end
    finally:
        end.close()


def leave(end: ClientEnd) -> None:
    """Leave in order, as an API process that stops."""
    end.sock.sendall(pack(Kind.LEAVE, b""))
