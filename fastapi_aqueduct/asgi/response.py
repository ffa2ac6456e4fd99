"""Answers that are made with less than usual."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .disconnect import DisconnectWatch

PIECE = 4 << 20
"""Bytes that are handed to the server at once: asyncio before 3.12 and h11 copy what they cannot send yet."""


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
    """An answer whose body is an array, a view or bytes, best in shared memory; nothing of it is copied to the heap.

    Args:
        content: Anything with the buffer protocol whose bytes lie in one piece: an array that a handler left in the
            task, an `Upload` or a slice of it. The memory is held until it has been sent.
        media_type: Type of the content.
        status_code: The HTTP status.
        headers: More headers.
        background: What to do when it has been sent.

    Raises:
        TypeError: The content offers no buffer, or its bytes do not lie in one piece.

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
    ) -> None:
        view = memoryview(content)
        if not view.c_contiguous:
            raise TypeError("the bytes of the content do not lie in one piece; numpy.ascontiguousarray makes it so")
        self._view: memoryview | None = view.cast("B") if view.nbytes else memoryview(b"")
        super().__init__(status_code=status_code, media_type=media_type, background=background)
        self.headers["content-length"] = str(view.nbytes)
        self.headers.update(headers or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, once."""
        view, self._view = self._view, None
        if view is None:
            raise RuntimeError("a SharedResponse can be sent only once: its memory is let go then")
        if scope.get("method") == "HEAD":
            view = view[:0]  # granian, with HTTP/2, would send it
        # Not every server ends a send when the client has gone: hypercorn, with HTTP/2, waits for ever.
        with suppress(ClientDisconnect), DisconnectWatch(receive):
            await self._send(view, send)
        del view
        if self.background is not None:
            await self.background()

    async def _send(self, view: memoryview, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # Cut, so that a slow client does not make the server copy all of it: each piece waits until it can be written.
        for start in range(0, max(len(view), 1), PIECE):
            end = start + PIECE
            await send({"type": "http.response.body", "body": view[start:end], "more_body": end < len(view)})
