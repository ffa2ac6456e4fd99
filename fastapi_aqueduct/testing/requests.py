"""Requests whose clients leave before they have the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

from .client import application_of


@dataclass
class Received:
    """What an application had sent when its client left.

    Attributes:
        status: The status of the response; None if it had not begun.
        headers: Its headers, with names in lower case.
        body: The beginning of its body.
        is_complete: Whether the response had ended, so that the client did not leave early.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False


async def request_then_disconnect(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | Iterable[bytes] = b"",
    is_whole: bool = True,
    until: Awaitable[object] | None = None,
    read: int = 0,
) -> Received:
    """Send a request to an application, and disconnect at a chosen moment, which no HTTP client of a test can do.

        await request_then_disconnect(app, "POST", "/ocr", body=[b"half of a picture"], is_whole=False)
        await request_then_disconnect(app, "POST", "/ocr", body=picture, until=started.wait())
        await request_then_disconnect(app, "GET", "/tokens", read=100)

    Returns when the application has ended with the request. Within `fastapi_aqueduct.testing.client` the request has
    the state of the lifespan.

    Args:
        app: Any ASGI application.
        method: The HTTP method.
        path: The path, and perhaps a query.
        headers: Headers of the request. Without a Content-Length, the body counts as chunked.
        body: The body, or its chunks.
        is_whole: Whether the body ends; otherwise the client leaves in the middle of it.
        until: Awaited before the client leaves, such as ``event.wait()`` or ``asyncio.sleep(0.1)``; default: it leaves
            at once when the body is sent.
        read: Bytes of the response's body that the client reads before it leaves.

    Returns:
        What the application had sent by then. It does not notice when it sends more, as under uvicorn.

    Raises:
        Exception: What the application raises, or ``until``; the client leaves then.
    """
    exchange = _Exchange([body] if isinstance(body, bytes) else list(body) or [b""], is_whole, read)
    moment = asyncio.ensure_future(_soon() if until is None else until)
    leaving = asyncio.create_task(exchange.leave(moment))
    try:
        await application_of(app)(_scope(method, path, headers or {}), exchange.receive, exchange.send)
    finally:
        moment.cancel()
        leaving.cancel()
        await asyncio.wait([leaving])
    if not leaving.cancelled():
        leaving.result()
    return exchange.received


class _Exchange:
    """A request and its response, as the application sees them.

    Args:
        chunks: The chunks of the body.
        is_whole: Whether the body ends.
        read: Bytes of the response's body that the client reads.
    """

    def __init__(self, chunks: list[bytes], is_whole: bool, read: int) -> None:
        self.received = Received()
        self._chunks = chunks
        self._is_whole = is_whole
        self._read = read
        self._is_sent = asyncio.Event()
        self._has_read = asyncio.Event()
        self._has_left = asyncio.Event()

    async def leave(self, moment: Awaitable[object]) -> None:
        """Wait for the moment, and leave."""
        try:
            await self._is_sent.wait()
            await moment
            if self._read:
                await self._has_read.wait()
        finally:
            self._has_left.set()

    async def receive(self) -> Message:
        """Return the next message to the application."""
        if self._chunks:
            chunk = self._chunks.pop(0)
            is_last = not self._chunks
            if is_last:
                self._is_sent.set()
            return {"type": "http.request", "body": chunk, "more_body": not (is_last and self._is_whole)}
        self._is_sent.set()
        await self._has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Note a message of the application; a client that has left gets none."""
        if self._has_left.is_set():
            return
        received = self.received
        if message["type"] == "http.response.start":
            received.status = message["status"]
            received.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            received.body += message.get("body", b"")
            received.is_complete = not message.get("more_body", False)
        if len(received.body) >= self._read:
            self._has_read.set()


async def _soon() -> None:
    pass


def _scope(method: str, target: str, headers: Mapping[str, str]) -> Scope:
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in {"host": "testserver", **headers}.items()
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
        "state": {},
    }
