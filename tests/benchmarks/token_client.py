"""The client of the servers that stream tokens; wrk sees whole answers only."""

from __future__ import annotations

import json
import math
import selectors
import socket
import time
from dataclasses import dataclass

from .servers.token_model import REPORT, TOKEN
from .subject import DEADLINE

MARK = TOKEN.encode()
READ = 1 << 16


@dataclass(frozen=True)
class Tokens:
    """A request for tokens.

    Attributes:
        count: How many are wanted.
        step: Seconds that each step of the model takes.
        report_to: Port to which the end of the generation is reported; 0: to none.
    """

    count: int
    step: float = 0.0
    report_to: int = 0

    @property
    def expected(self) -> int:
        """What `send` must return."""
        return self.count

    def send(self, port: int) -> int:
        """Send the request once and return how many tokens have come."""
        return read_streams(port, self, 1).tokens

    def encode(self) -> bytes:
        """Return the bytes of the HTTP request."""
        body = json.dumps({"count": self.count, "step": self.step, "report_to": self.report_to}).encode()
        head = (
            "POST /work HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class Reading:
    """What came over several connections.

    Attributes:
        tokens: Their number, of all connections.
        seconds: From the requests until the last token.
        first: Seconds until the first token of each connection.
    """

    tokens: int
    seconds: float
    first: list[float]


class _Stream:
    """The answer on one connection.

    Attributes:
        received: Its bytes.
        first_at: When the first token came; 0 before.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.first_at = 0.0

    def read(self) -> bool:
        """Read what has come; tell whether there may be more."""
        piece = self.sock.recv(READ)
        self.received += piece
        if not self.first_at and MARK in self.received:
            self.first_at = time.perf_counter()
        return bool(piece)


def read_streams(port: int, request: Tokens, connections: int, pause: float = 0.0) -> Reading:
    """Send a request over several connections at once, and read the answers until their ends.

    Args:
        port: Of the server.
        request: What is wanted on each connection.
        connections: How many.
        pause: Seconds between two looks at the connections.

    Raises:
        ConnectionError: An answer has not a single token, as that of a server which is not ready yet.
        TimeoutError: A server sends nothing.
    """
    streams = [_Stream(socket.create_connection(("127.0.0.1", port), DEADLINE)) for _ in range(connections)]
    message = request.encode()
    with selectors.DefaultSelector() as selector:
        try:
            started = time.perf_counter()
            for stream in streams:
                stream.sock.sendall(message)
                selector.register(stream.sock, selectors.EVENT_READ, stream)
            while selector.get_map():
                ready = selector.select(DEADLINE)
                if not ready:
                    raise TimeoutError(f"port {port} has sent nothing for {DEADLINE:.0f} s")
                for key, _ in ready:
                    if not key.data.read():
                        selector.unregister(key.fileobj)
                time.sleep(pause)
            seconds = time.perf_counter() - started
        finally:
            for stream in streams:
                stream.sock.close()
    for stream in streams:
        if not stream.first_at:
            raise ConnectionError(f"port {port} has answered {bytes(stream.received[:200])!r}")
    tokens = sum(stream.received.count(MARK) for stream in streams)
    return Reading(tokens, seconds, [stream.first_at - started for stream in streams])


def leave(port: int, count: int, step: float) -> float:
    """Close the connection after the first tokens; return the seconds until the generation has ended.

    Infinite if it has not ended when twice the time of all tokens has passed.

    Args:
        port: Of the server.
        count: Tokens after which the generation ends by itself.
        step: Seconds that each takes.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reports:
        reports.bind(("127.0.0.1", 0))
        reports.settimeout(2 * count * step)
        request = Tokens(count, step, reports.getsockname()[1])
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
            sock.sendall(request.encode())
            received = b""
            while received.count(MARK) < 3:
                received += sock.recv(READ)
        left_at = time.monotonic()
        try:
            ended_at: float = REPORT.unpack(reports.recv(REPORT.size))[0]
        except TimeoutError:
            return math.inf
    return max(ended_at - left_at, 0.0)
