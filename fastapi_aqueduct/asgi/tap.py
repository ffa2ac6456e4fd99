"""Takes the body of a request from uvicorn where its parser leaves it, before it is copied for the application.

Between the socket and `receive` uvicorn copies every byte twice: into a buffer of the request, and out of it when the
application asks; and it stops and restarts reading whenever 64 KiB lie there. For uploads of megabytes that costs more
than all else here. So the buffer is replaced by a `Tap`: what the parser appends goes straight on, and `receive` is
awaited as always (it answers ``Expect: 100-continue``, sees the client leave and wakes us), with nothing left to copy.
The HTTP protocol itself stays wholly with the server. Any other server, or a middleware that wraps ``receive``, is
served through ASGI's messages alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from starlette.requests import ClientDisconnect, Request

from .cycle import cycle_of

SMALL = 4 << 10
"""Bytes below which the server's own buffer is quicker: a client may send every byte in a chunk of its own."""

_FULL = 1 << 30


class Tap:
    """Stands in for the buffer of one request.

    Use it as a context manager: afterwards the server has a buffer of its own again.

    Args:
        request: Its body must not have been read, and `fits` must have said yes.
        take: Called with each piece, or with several joined. It must not await; what it raises is raised by `wait`.
        is_full: Asked after each piece; while it says yes the server reads no more from the socket.
    """

    def __init__(
        self, request: Request, take: Callable[[bytes | bytearray], None], is_full: Callable[[], bool]
    ) -> None:
        self._request = request
        self._receive = request.receive
        self._cycle: Any = cycle_of(request.receive)
        self._take = take
        self._is_full = is_full
        self._error: Exception | None = None
        self._length = 0

    @staticmethod
    def fits(request: Request) -> bool:
        """Tell whether the body of a request comes from a server whose buffer is known, and is still there."""
        return (
            type(getattr(cycle_of(request.receive), "body", None)) is bytearray
            and not hasattr(request, "_body")
            and not getattr(request, "_stream_consumed", True)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._cycle.body is self:
            self._cycle.body = bytearray()

    async def wait(self) -> bool:
        """Wait for the next pieces, which have been taken when it returns.

        Returns:
            Whether there will be more.

        Raises:
            ClientDisconnect: The client went away.
            Exception: What taking them has raised.
        """
        self._length = 0
        early, self._cycle.body = self._cycle.body, self
        if early:  # what came together with the headers, or while the last pieces waited for room
            self._pass_on(early)
        if self._error is None:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self._request._stream_consumed = not message.get("more_body", False)
            if message["body"]:
                self._pass_on(message["body"])
        if self._error is not None:
            raise self._error
        return not self._request._stream_consumed

    def __iadd__(self, data: bytes | bytearray) -> Tap | bytearray:
        # Called from within the server's parser, for every chunk that the client has made. What is returned becomes the
        # buffer: one of the usual kind, which is then filled until the server has read no more.
        if len(data) < SMALL:
            return bytearray(data)
        self._pass_on(data)
        return self

    def __len__(self) -> int:
        return self._length

    def _pass_on(self, data: bytes | bytearray) -> None:
        # The parser must not see our errors.
        if self._error is not None:
            return
        try:
            self._take(data)
        except Exception as exc:
            self._error = exc
        self._length = _FULL if self._is_full() else 0

    def __bytes__(self) -> bytes:
        return b""
