"""A bare exchange with another process: the lower bound for every package that runs work in other processes.

It has no batches, no deadlines and no shared memory, and does not replace a process that dies. Its cost is the
machine's; the cost of a package beyond it is the package's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import pickle
import socket
from collections import deque
from typing import Any, Self

LARGEST = 4096

NOTE = "a bare process: a socket there and back, and nothing else of what a package does"
"""What a table says of it."""


class Exchange:
    """A process that sends back what it is sent. Use it as a context manager, in a running event loop."""

    def __init__(self) -> None:
        # Each message arrives as a whole, so there is nothing to frame.
        self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = multiprocessing.get_context("spawn").Process(target=echo, args=(self._theirs,), daemon=True)
        self._pending: deque[asyncio.Future[Any]] = deque()

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._process.join()

    async def call(self, value: Any) -> Any:
        """Send a value there and wait for it; the socket bears some 200 that wait."""
        future = asyncio.get_running_loop().create_future()
        self._pending.append(future)
        self._socket.send(pickle.dumps(value, 5))
        return await future

    def _receive(self) -> None:
        message = self._socket.recv(LARGEST)
        if message:
            self._pending.popleft().set_result(pickle.loads(message))
        else:
            asyncio.get_running_loop().remove_reader(self._socket)  # the process was told to end, too


def echo(sock: socket.socket) -> None:
    """Send everything back until the other end is closed."""
    with contextlib.suppress(ConnectionError):
        while message := sock.recv(LARGEST):
            sock.send(pickle.dumps(pickle.loads(message), 5))
