"""Everything that uses private parts of uvicorn.

Between the socket and ``receive`` uvicorn copies every byte twice: into a buffer of the request, and out of it when the
application asks; and it stops and restarts reading whenever the buffer has 64 KiB. For uploads of megabytes that costs
more than all of this package. So a `Tap` replaces the buffer: it passes on what the parser appends. ``receive`` is
awaited as usual, with nothing left to copy: it answers ``Expect: 100-continue``, sees the client leave, and wakes the
task of the request. The server alone speaks HTTP.

Other servers, releases of uvicorn that are not known, and requests behind a middleware that wraps ``receive`` are
served through ASGI's messages. So is a known release whose parts have changed: the tap is a ``bytearray``, so bytes
that are added to it in another way stay in it until ``receive`` returns them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from ..logger import log
from .versions import unknown

SMALL = 4 << 10
"""Bytes below which a chunk goes to the server's own buffer: a client may send every byte in a chunk of its own."""

_FULL = 1 << 30
"""Bytes of a buffer with which uvicorn reads no more from the socket."""

_SHUTDOWN = "Task cancelled, timeout graceful shutdown exceeded"

_SERVERS = ("uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.http.h11_impl")


def _cycle_of(receive: Receive) -> Any:
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
    cycle = _cycle_of(receive)
    while cycle is None:
        owner = getattr(receive, "__self__", None)
        inner = getattr(owner, "receive", None)
        if inner is None or getattr(inner, "__self__", None) is owner:
            return None
        receive = inner
        cycle = _cycle_of(receive)
    transport: asyncio.Transport | None = getattr(cycle, "transport", None)
    return transport if hasattr(transport, "abort") else None


def is_shutdown(exc: asyncio.CancelledError) -> bool:
    """Return whether uvicorn cancels a request because it stops.

    uvicorn stops without a signal, too: in a thread, or after ``limit_max_requests``. Only the text of the exception
    shows that.
    """
    return exc.args == (_SHUTDOWN,)


@cache
def _is_known(version: str) -> bool:
    reason = unknown("uvicorn", version)
    if reason is not None:
        log.info("uploads are read through ASGI's messages, which is slower: %s", reason)
    return reason is None


class _FullBuffer(bytearray):
    """The buffer of a request whose next piece must not come yet. A `Tap` is asked for its length for every piece."""

    def __len__(self) -> int:
        return super().__len__() + _FULL


class Tap(bytearray):
    """Stands in for the buffer of one request while its body is read.

    Args:
        request: Its body must not have been read, and `fits` must have returned True.
        write: Called with each piece, or with several joined. It must not wait. It returns whether another piece may
            follow; if not, the server reads no more from the socket until `drain` has returned.
        drain: Waits until another piece may follow.
    """

    def __init__(
        self,
        request: Request,
        write: Callable[[bytes | bytearray], bool],
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__()
        self._request = request
        self._receive = request.receive
        self._cycle: Any = _cycle_of(request.receive)
        self._write = write
        self._drain = drain
        self._is_full = False
        self._error: Exception | None = None

    @staticmethod
    def fits(request: Request) -> bool:
        """Return whether the body of a request comes from a server whose buffer is known, and is still there."""
        return (
            type(getattr(_cycle_of(request.receive), "body", None)) is bytearray
            and not hasattr(request, "_body")
            and not getattr(request, "_stream_consumed", True)
        )

    async def run(self) -> None:
        """Pass on the body, to its end. However it ends, the server has a buffer of its own again afterwards.

        Raises:
            ClientDisconnect: The client went away.
            Exception: What ``write`` and ``drain`` raise.
        """
        try:
            while not self._request._stream_consumed:
                if self._cycle.body:
                    await self._pass_on_early()
                self.clear()
                self._cycle.body = self
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                self._request._stream_consumed = not message.get("more_body", False)
                if self._error is not None:
                    raise self._error
                if self._is_full:
                    await self._drain()
                    self._is_full = False
                if message["body"]:  # what did not pass by `+=`
                    await self._pass_on(message["body"])
        finally:
            if type(self._cycle.body) is not bytearray:
                self._cycle.body = bytearray(self._cycle.body)

    async def _pass_on_early(self) -> None:
        """Pass on what came together with the headers, or while `drain` waited."""
        while self._cycle.body:
            early, self._cycle.body = self._cycle.body, bytearray()
            await self._pass_on(bytes(self) if early is self else early)

    async def _pass_on(self, data: bytes | bytearray) -> None:
        if not self._write(data):
            await self._drain()

    # mypy: a bytearray returns itself; here the next buffer may be another one.
    def __iadd__(self, data: bytes | bytearray) -> Tap | bytearray:  # type: ignore[override, misc]
        # Called from within the server's parser, for every chunk that the client has made. What is returned becomes the
        # buffer: another one is then filled until the server has read no more.
        if len(data) < SMALL or self._error is not None:
            return bytearray(data)
        try:
            if self._write(data):
                return self
        except Exception as exc:  # the parser must not see it
            self._error = exc
            return self
        self._is_full = True
        return _FullBuffer(self)
