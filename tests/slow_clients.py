"""Clients that send a body one byte a second."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Iterable
from typing import Self

BODY = b"Connection: close\r\nContent-Length: %d\r\n\r\n"
FORM = (
    b"Content-Type: multipart/form-data; boundary=b\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n'
)
FORM_END = b"\r\n--b--\r\n"
CHUNKED = b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n"
CHUNKED_END = b"\r\n0\r\n\r\n"
PIECE = memoryview(b"x" * (1 << 16))


class SlowClient:
    """One of them.

    Args:
        port: Of the server.
        path: What it posts to.
        size: Bytes of its upload.
        kind: How it sends them: ``raw``, ``form`` or ``chunked``.

    Attributes:
        status: What it was answered; 0 as long as it was not, or when the connection was cut.
    """

    def __init__(self, port: int, path: str, size: int, kind: str = "raw") -> None:
        head = {"raw": BODY, "form": FORM, "chunked": CHUNKED}[kind]
        end = {"raw": b"", "form": FORM_END, "chunked": CHUNKED_END}[kind]
        announced = size if kind != "form" else len(FORM.partition(b"\r\n\r\n")[2]) + size + len(end)
        self._left = size  # made as it is sent: hundreds of clients may announce gigabytes together
        self._end = end
        self._received = b""
        self.status = 0
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.sendall(f"POST {path} HTTP/1.1\r\nHost: test\r\n".encode() + head % announced)

    def fileno(self) -> int:
        """Its connection, to wait for an answer."""
        return self._socket.fileno()

    def send(self, count: int | None = None) -> None:
        """Send some bytes more, or all that are left."""
        size = self._left if count is None else min(count, self._left)
        self._left -= size
        # Who was refused finds the connection closed.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for start in range(0, size, len(PIECE)):
                self._socket.sendall(PIECE[: size - start])
            if not self._left and (count is None or count > size):
                self._socket.sendall(self._end)
                self._end = b""

    def receive(self) -> bool:
        """Read what has come of the answer, and tell whether it is complete."""
        with contextlib.suppress(ConnectionResetError):
            data = self._socket.recv(1 << 16)
            self._received += data
            if data:
                return False
        self.status = int(self._received.split(b" ", 2)[1]) if self._received else 0
        return True

    def close(self) -> None:
        """Go away."""
        self._socket.close()


class SlowClients:
    """Many of them; use it as a context manager: at its end all that are left go away.

    Args:
        clients: They.

    Attributes:
        statuses: How often each status was answered.
    """

    def __init__(self, clients: Iterable[SlowClient]) -> None:
        self.statuses: Counter[int] = Counter()
        self._waiting = {client.fileno(): client for client in clients}
        self._poll = select.epoll()
        for number in self._waiting:
            self._poll.register(number, select.EPOLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for client in self._waiting.values():
            client.close()
        self._poll.close()

    def drip(self, seconds: float) -> None:
        """Send one byte a second each, evenly spread, until all are answered or the time is over."""
        due = time.monotonic()
        end = due + seconds
        while self._waiting and due < end:
            numbers = list(self._waiting)
            for number in filter(self._waiting.__contains__, numbers):
                due += 1 / len(numbers)
                self._read_answers(max(0.0, due - time.monotonic()))
                if number in self._waiting:
                    self._waiting[number].send(1)

    def finish(self, timeout: float) -> None:
        """Send the rest and wait until each client has an answer, or the time is over."""
        for client in self._waiting.values():
            client.send()
        deadline = time.monotonic() + timeout
        while self._waiting and time.monotonic() < deadline:
            self._read_answers(deadline - time.monotonic())

    def _read_answers(self, timeout: float) -> None:
        for number, _ in self._poll.poll(timeout):
            client = self._waiting[number]
            if client.receive():
                self.statuses[client.status] += 1
                self._poll.unregister(number)
                del self._waiting[number]
                client.close()


def allow_descriptors(count: int) -> None:
    """Let this process and its children have ``count`` descriptors if the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
