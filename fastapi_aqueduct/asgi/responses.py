"""Responses that cost less than FastAPI's: JSON that is serialized already, and arrays in shared memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..exceptions import InvalidArgument, UsageError, got
from ..logger import log
from .disconnect import DisconnectWatch
from .stall import Stalled, StallTimeout
from .uvicorn import transport_of

PIECE = 256 << 10
"""The most bytes that the server gets at once: it holds, or copies, what it cannot send yet."""

TAIL = 64 << 10
"""Bytes at the end that are copied. Servers make an application wait only while they hold more than this. They would
hold shared memory for the rest without a limit of time."""


class JSONContent(Response):
    """A response whose content is JSON already.

    It skips what other responses find out about their content, type and headers.

    Args:
        body: The JSON.
        headers: Additional headers.
        status_code: The HTTP status.
    """

    media_type = "application/json"

    def __init__(self, body: bytes, headers: list[tuple[bytes, bytes]], status_code: int = 200) -> None:
        self.status_code = status_code
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json"), *headers]


class SharedResponse(Response):
    """A response that is sent from shared memory without a copy.

    Args:
        content: An object with the buffer protocol and contiguous bytes: an array that a handler left in the task, an
            `Upload` or a slice of it, or bytes. The memory is held until the response is sent.
        media_type: The Content-Type.
        status_code: The HTTP status.
        headers: Additional headers.
        background: Called when the response is sent.
        stall_timeout: Seconds in which the client must read some of it; afterwards the connection is closed and the
            memory is released. None: no limit.

    Raises:
        InvalidArgument: The content has no buffer, or its bytes are not contiguous.

    Example:
            @app.post("/thumbnail", response_class=SharedResponse)
            @flow_endpoint(flow)
            async def thumbnail(task: Picture) -> SharedResponse:
                return SharedResponse(task.pixels, media_type="application/octet-stream")
    """

    def __init__(
        self,
        content: Any = b"",
        media_type: str | None = "application/octet-stream",
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
        stall_timeout: float | None = 20.0,
    ) -> None:
        try:
            view = memoryview(content)
        except (TypeError, ValueError, BufferError) as exc:
            raise InvalidArgument(f"a SharedResponse needs an object with the buffer protocol, {got(content)}") from exc
        if not view.c_contiguous:
            raise InvalidArgument(
                "the bytes of a SharedResponse's content must be contiguous; numpy.ascontiguousarray makes them so"
            )
        self._view: memoryview | None = view.cast("B") if view.nbytes else memoryview(b"")
        super().__init__(status_code=status_code, media_type=media_type, background=background)
        self.headers["content-length"] = str(view.nbytes)
        self.headers.update(headers or {})
        self._stall_timeout = stall_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, once. Afterwards, also after a cancellation, its memory is released.

        Raises:
            UsageError: It was sent before.
        """
        view, self._view = self._view, None
        if view is None:
            raise UsageError("a SharedResponse can be sent only once: its memory is released then")
        if scope.get("method") == "HEAD":
            view = view[:0]  # granian sends the body of an answer to HEAD over HTTP/2
        # Not every server ends a send when the client has gone: hypercorn waits for ever over HTTP/2.
        with suppress(ClientDisconnect), DisconnectWatch(receive):
            try:
                await self._send(view, transport_of(receive), send)
            except Stalled as exc:
                log.info("%s %s: %s", scope["method"], scope["path"], exc)
                await close_connection(receive)
        del view
        if self.background is not None:
            await self.background()

    async def _send(self, view: memoryview, transport: asyncio.Transport | None, send: Send) -> None:
        body: memoryview | bytes = b""
        try:
            async with StallTimeout(self._stall_timeout, transport) as stall:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                tail = max(0, len(view) - TAIL)
                for start in range(0, tail, PIECE):
                    body = view[start : min(start + PIECE, tail)]
                    if transport is None:  # only a known connection can be made to release what it has not sent
                        body = bytes(body)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    stall.note()
                await send({"type": "http.response.body", "body": bytes(view[tail:]), "more_body": tail > 0})
                stall.note()
                if tail:
                    # Returns when the server holds only copies.
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            # hypercorn keeps the exception of a connection that has ended until its keep-alive timeout, and with it the
            # frames of all callers, this one with its variables.
            del view, body


async def close_connection(receive: Receive) -> None:
    """Close the connection of a client that reads nothing, and drop what it was not sent."""
    transport = transport_of(receive)
    if transport is None:
        return  # the server sees an incomplete answer and closes the connection
    # Not `close`: that would wait until the client has read what was written.
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
