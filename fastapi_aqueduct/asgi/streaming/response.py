"""The response that streams the values of an asynchronous iterator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...exceptions import TaskTimeout
from ...logger import log
from ..disconnect import DisconnectWatch
from ..errors import find_answer, raise_http_error
from ..responses import close_connection
from ..stall import Stalled, StallTimeout
from ..traceback import untangle
from ..uvicorn import transport_of
from .chunk_sender import ChunkSender
from .formats import Format
from .primed import Primed

STALL_TIMEOUT = 20.0
"""Seconds in which a client must read something of what waits for it."""

KEEP_ALIVE_INTERVAL = 15.0
"""Seconds of silence after which a response sends what keeps the connection open; FastAPI's number."""

CLOSE_TIMEOUT = 20.0
"""Seconds in which a client must read the rest of a response that was cut."""


class ItemResponse(Response):
    """A response that streams values.

    FastAPI's costs more for each item than everything else here, and loses the last items when the iteration raises.
    The values that are there at the same time are one message to the server.

    An exception before the first message is raised, and becomes an answer of its own. Later the connection is cut after
    all values before it were sent: an error of a flow is logged in one line, and any other exception is raised, so that
    the server logs it. A client that leaves ends the iteration.

    Args:
        values: The values.
        format: Writes them.
        status_code: The HTTP status.
        headers: Additional headers.
        keep_alive_interval: Seconds of silence after which the keep-alive of the format is sent.
        stall_timeout: Seconds in which the client must read something of what waits for it. Otherwise the connection is
            closed: its stream would keep a place of the handler, and hold up the stop of the server.
    """

    def __init__(
        self,
        values: Primed,
        format: Format,
        status_code: int = 200,
        headers: Iterable[tuple[bytes, bytes]] = (),
        keep_alive_interval: float = KEEP_ALIVE_INTERVAL,
        stall_timeout: float = STALL_TIMEOUT,
    ) -> None:
        self.status_code = status_code
        self.background: BackgroundTask | None = None
        self.raw_headers = [*format.headers, *headers]
        self._values = values
        self._format = format
        self._interval = keep_alive_interval
        self._stall_timeout = stall_timeout
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response.

        Raises:
            HTTPException: The iteration has failed before the first message, with an error that has an answer.
            Exception: Of the iteration.
        """
        try:
            try:
                with suppress(ClientDisconnect):
                    await self._send_in_time(receive, send)
            finally:
                await self._values.aclose()  # not later: the client, or a background task, may take its time
        except Exception as exc:
            if not self._has_begun:
                raise_http_error(scope, exc)
            await _cut(scope, receive, send, exc)
            if not _is_expected(exc):
                untangle(exc)
                raise
            return
        if self.background is not None:
            await self.background()

    async def _send_in_time(self, receive: Receive, send: Send) -> None:
        limit = asyncio.timeout_at(self._values.deadline)
        try:
            async with limit:
                with DisconnectWatch(receive, at_once=True):
                    await self._send(send, StallTimeout(self._stall_timeout, transport_of(receive)))
                # Without the watch: servers announce the end of a complete response as they do a client that has left.
                with suppress(OSError):  # it has left
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            if limit.expired():
                raise TaskTimeout("it did not end within its total_timeout") from None
            raise

    async def _send(self, send: Send, stall: StallTimeout) -> None:
        head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        sender = ChunkSender(send, head, self._format.keep_alive, self._interval, stall)
        for value in self._values.first:
            sender.put(self._format.encode(value))
        self._values.first.clear()
        self._has_begun = True
        error = await self._exchange(sender)
        try:
            if error is not None:
                raise error
        finally:
            del error  # it refers to this frame; as a cycle both would keep the memory of the task

    async def _exchange(self, sender: ChunkSender) -> Exception | None:
        """Send all values; return what has failed, which gets no reference to this frame."""
        # Not in a TaskGroup: it makes a cycle of a cancellation and its own frame, up to Python 3.12.
        sending = asyncio.create_task(sender.run())
        try:
            error = await self._fill(sender)
            sender.end()
            await asyncio.wait([sending])
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.wait([sending])
        try:
            return sending.result() or error
        finally:
            del error  # frames in its traceback refer to this one in Python 3.12 and 3.13

    async def _fill(self, sender: ChunkSender) -> Exception | None:
        """Pass all values to the sender; return the exception that ends them, which must not overtake them."""
        encode = self._format.encode
        try:
            async for value in self._values.rest:
                if sender.put(encode(value)):
                    await sender.drain()
        except Exception as exc:
            return exc
        return None


def _is_expected(exc: Exception) -> bool:
    """Return whether an exception is no error of the application, so the server need not log it."""
    return isinstance(exc, Stalled) or find_answer(exc) is not None


async def _cut(scope: Scope, receive: Receive, send: Send, exc: Exception) -> None:
    """Cut the connection of a response that has failed, after what was written, so that the client sees the failure.

    A server does it when its application returns or raises. It logs both, so where the connection is known, it is
    closed before the application returns because of an error of a flow.
    """
    transport = transport_of(receive)
    is_expected = _is_expected(exc)
    if is_expected:
        log.info("%s %s: the response was cut: %s", scope["method"], scope["path"], str(exc))
    if transport is None:
        if await _spoil(send) and not is_expected:
            log.error("%s %s: the response was cut", scope["method"], scope["path"], exc_info=exc)
    elif isinstance(exc, Stalled):
        await close_connection(receive)
    elif is_expected:
        transport.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                while (await receive())["type"] != "http.disconnect":
                    pass
                return
        transport.abort()


async def _spoil(send: Send) -> bool:
    """Make a middleware fail that would end the response.

    ``BaseHTTPMiddleware`` ends a response when the application returns, and before it raises what the application has
    raised. It fails at a message that is none; and so does every server.

    Args:
        send: Of the request.

    Returns:
        Whether there is such a middleware. It fails before it raises what the application raises.
    """
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await send({"type": "http.response.cut"})
    except Exception:
        return False
    return True
