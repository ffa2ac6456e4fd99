"""Answers that are made with less than usual."""

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
"""Bytes that are handed to the server at once, at most: what it cannot send yet it holds, or copies."""

TAIL = 64 << 10
"""Bytes at the end that are copied. Servers make an application wait only while they hold more than so many, so they
would hold the memory of what is left without anybody who looks at the time."""


class JSONContent(Response):
    """An answer that is JSON already.

    What every response asks itself about its content, its type and its headers is known here.

    Args:
        body: The JSON.
        headers: More headers.
        status_code: The HTTP status.
    """

    media_type = "application/json"

    def __init__(self, body: bytes, headers: list[tuple[bytes, bytes]], status_code: int = 200) -> None:
        self.status_code = status_code
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json"), *headers]


class SharedResponse(Response):
    """An answer whose body is an array, a view or bytes, best in shared memory; it is sent from there.

    Args:
        content: Anything with the buffer protocol whose bytes lie in one piece: an array that a handler left in the
            task, an `Upload` or a slice of it. The memory is held until it has been sent.
        media_type: Type of the content.
        status_code: The HTTP status.
        headers: More headers.
        background: What to do when it has been sent.
        stall_timeout: Seconds in which the client must take something of it; after that the connection is closed, and
            the memory let go. None: no limit.

    Raises:
        InvalidArgument: The content offers no buffer, or its bytes do not lie in one piece.

    Example:
        ::

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
            raise InvalidArgument(f"a SharedResponse sends what has the buffer protocol, {got(content)}") from exc
        if not view.c_contiguous:
            raise InvalidArgument(
                "the bytes of the content do not lie in one piece; numpy.ascontiguousarray makes it so"
            )
        self._view: memoryview | None = view.cast("B") if view.nbytes else memoryview(b"")
        super().__init__(status_code=status_code, media_type=media_type, background=background)
        self.headers["content-length"] = str(view.nbytes)
        self.headers.update(headers or {})
        self._stall_timeout = stall_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, once.

        Raises:
            UsageError: It was sent before.
        """
        view, self._view = self._view, None
        if view is None:
            raise UsageError("a SharedResponse can be sent only once: its memory is let go then")
        if scope.get("method") == "HEAD":
            view = view[:0]  # granian, with HTTP/2, would send it
        # Not every server ends a send when the client has gone: hypercorn, with HTTP/2, waits for ever.
        with suppress(ClientDisconnect), DisconnectWatch(receive):
            try:
                await self._send(view, transport_of(receive), send)
            except Stalled as exc:
                log.info("%s %s: %s", scope["method"], scope["path"], exc)
                await _hang_up(receive)
        del view
        if self.background is not None:
            await self.background()

    async def _send(self, view: memoryview, transport: asyncio.Transport | None, send: Send) -> None:
        async with StallTimeout(self._stall_timeout, transport) as stall:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            tail = max(0, len(view) - TAIL)
            for start in range(0, tail, PIECE):
                piece = view[start : min(start + PIECE, tail)]
                # A connection that is not known cannot be made to let go of what it has not sent.
                body = bytes(piece) if transport is None else piece
                await send({"type": "http.response.body", "body": body, "more_body": True})
                stall.note()
            await send({"type": "http.response.body", "body": bytes(view[tail:]), "more_body": tail > 0})
            stall.note()
            if tail:
                # Returns when the server holds nothing of what was not copied.
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _hang_up(receive: Receive) -> None:
    transport = transport_of(receive)
    if transport is None:
        return  # the server sees an answer that is not complete, and closes the connection as it can
    # Not closed: that would wait until the client has taken what was written.
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
