"""The private parts of uvicorn; no other module knows them.

Between the socket and `receive` uvicorn copies every byte twice: into a buffer of the request, and out of it when the
application asks; and it stops and restarts reading whenever 64 KiB lie there. For uploads of megabytes that costs more
than all else here. So the buffer is replaced by a `Tap`: what the parser appends goes straight on, and `receive` is
awaited as always (it answers ``Expect: 100-continue``, sees the client leave and wakes us), with nothing left to copy.
The HTTP protocol itself stays wholly with the server.

Any other server, a release of uvicorn that is not known, and a middleware that wraps ``receive`` are served through
ASGI's messages alone. A uvicorn of a known release whose parts have changed all the same is served, too: the tap is a
``bytearray``, so bytes that are added to it in another way lie in it until `receive` returns them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, Self

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from ..logger import log
from .versions import unknown

SMALL = 4 << 10
"""Bytes below which the server's own buffer is quicker: a client may send every byte in a chunk of its own."""

_FULL = 1 << 30

_SHUTDOWN = "Task cancelled, timeout graceful shutdown exceeded"

_SERVERS = ("uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.http.h11_impl")


def cycle_of(receive: Receive) -> Any:
    """Return uvicorn's object for a request and its answer.

    Args:
        receive: Of the request.

    Returns:
        The object; None for another server, for a release of uvicorn that is not known, and behind anything that wraps
            ``receive``.
    """
    cycle = getattr(receive, "__self__", None)
    if type(cycle).__module__ not in _SERVERS:
        return None
    return cycle if _is_known(getattr(sys.modules.get("uvicorn"), "__version__", "")) else None


def transport_of(receive: Receive) -> asyncio.Transport | None:
    """Return the connection of a request, to close it whatever the client does.

    Args:
        receive: Of the request. A limit on bodies is looked through: Starlette's and ours keep what they wrap in an
            attribute ``receive``, and pass on a method of another name.

    Returns:
        The connection; None for another server, and behind a middleware that hides it.
    """
    cycle = cycle_of(receive)
    while cycle is None:
        owner = getattr(receive, "__self__", None)
        inner = getattr(owner, "receive", None)
        if inner is None or getattr(inner, "__self__", None) is owner:
            return None
        receive = inner
        cycle = cycle_of(receive)
    transport: asyncio.Transport | None = getattr(cycle, "transport", None)
    return transport if hasattr(transport, "abort") else None


def is_shutdown(exc: asyncio.CancelledError) -> bool:
    """Return whether uvicorn cancels a request because it stops.

    uvicorn stops without a signal, too: in a thread, or after ``limit_max_requests``. Only the text of the exception
    tells that.
    """
    return exc.args == (_SHUTDOWN,)


@cache
def _is_known(version: str) -> bool:
    reason = unknown("uvicorn", version)
    if reason is not None:
        log.info("uploads are read through ASGI's messages, which is slower: %s", reason)
    return reason is None


class Tap(bytearray):
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
        super().__init__()
        self._request = request
        self._receive = request.receive
        self._cycle: Any = cycle_of(request.receive)
        self._take = take
        self._is_full = is_full
        self._error: Exception | None = None
        self._excess = 0

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
        early = self._cycle.body
        if early is self:
            early = bytes(self)
        self.clear()  # what was added here in another way than by += has been returned by `receive`
        self._excess = 0
        self._cycle.body = self
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

    # mypy: a bytearray returns itself; here the next buffer may be another one.
    def __iadd__(self, data: bytes | bytearray) -> Tap | bytearray:  # type: ignore[override, misc]
        # Called from within the server's parser, for every chunk that the client has made. What is returned becomes the
        # buffer: one of the usual kind, which is then filled until the server has read no more.
        if len(data) < SMALL:
            return bytearray(data)
        self._pass_on(data)
        return self

    def __len__(self) -> int:
        return super().__len__() + self._excess

    def _pass_on(self, data: bytes | bytearray) -> None:
        # The parser must not see our errors.
        if self._error is not None:
            return
        try:
            self._take(data)
        except Exception as exc:
            self._error = exc
        self._excess = _FULL if self._is_full() else 0
