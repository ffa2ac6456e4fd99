"""A request as a file of a corpus describes it, and what an ASGI application does with it.

    Rp!#                                     target, endpoint, sizes of the pieces in which the body comes
    content-type: application/octet-stream   headers, as many as there are
    content-length: 3
                                             an empty line, then the body
    abc

Two headers are not sent: ``query`` is the query string, and ``x-do`` may say ``gzip``, to compress the body, and
``leave``, to go away after it.
"""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass
from typing import NamedTuple

from starlette.types import ASGIApp, Message

DEADLINE = 10.0
"""Seconds in which a request must be answered."""


@dataclass(frozen=True)
class Attempt:
    """A request.

    Attributes:
        endpoint: One letter.
        headers: In the order in which they are sent; names in lower case.
        query: The query string.
        chunks: The pieces of the body.
        leaves: Whether the client goes away after them.
    """

    endpoint: str
    headers: list[tuple[bytes, bytes]]
    query: bytes
    chunks: list[bytes]
    leaves: bool

    @classmethod
    def read(cls, data: bytes) -> Attempt:
        """Read it from a file of the corpus, without the first letter."""
        head, _, body = data.partition(b"\n\n")
        first, *lines = head.split(b"\n")
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        orders = [value for name, value in headers if name == b"x-do"]
        if any(b"gzip" in order for order in orders):
            body = gzip.compress(body, mtime=0)
        return cls(
            endpoint=first[:1].decode("latin-1"),
            headers=[header for header in headers if header[0] not in (b"query", b"x-do", b"")],
            query=b"".join(value for name, value in headers if name == b"query"),
            chunks=pieces(body, first[1:]),
            leaves=any(b"leave" in order for order in orders),
        )

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)

    def header(self, name: bytes) -> bytes | None:
        """Return a header as Starlette does: the first of its name."""
        return next((value for key, value in self.headers if key == name), None)

    async def send(self, app: ASGIApp) -> Answer:
        """Call an application with it; what the application lets pass is raised."""
        messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in self.chunks]
        messages.append({"type": "http.disconnect"} if self.leaves else {"type": "http.request", "body": b""})
        replies: list[Message] = []

        async def receive() -> Message:
            if messages:
                return messages.pop(0)
            await asyncio.Event().wait()  # as a server: nothing more comes from a client that waits for its answer
            raise AssertionError

        async def keep(message: Message) -> None:
            replies.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": f"/{self.endpoint}",
            "raw_path": f"/{self.endpoint}".encode("latin-1"),
            "root_path": "",
            "query_string": self.query,
            "headers": self.headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        async with asyncio.timeout(DEADLINE):
            await app(scope, receive, keep)
        start, *rest = replies
        assert start["type"] == "http.response.start", start
        assert [message["type"] for message in rest] == ["http.response.body"] * len(rest), rest
        assert [message.get("more_body", False) for message in rest] == [True] * (len(rest) - 1) + [False], rest
        return Answer(start["status"], dict(start["headers"]), b"".join(message["body"] for message in rest))


class Answer(NamedTuple):
    """What the application answered."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


def pieces(data: bytes, sizes: bytes) -> list[bytes]:
    """Cut data; each size says how long a piece is, the last piece is what remains."""
    found: list[bytes] = []
    position = 0
    for size in sizes:
        found.append(data[position : position + size])
        position += size
    return [*found, data[position:]]
