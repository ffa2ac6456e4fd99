"""The watch over a WebSocket whose endpoint sends and does not read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from .disconnect import DisconnectWatch

READ_AHEAD = 64 << 10
"""Bytes of unread messages at which a watch reads no more."""

MESSAGE_SIZE = 256
"""Bytes that a message counts in addition to its content."""


@asynccontextmanager
async def cancel_on_disconnect(socket: WebSocket) -> AsyncIterator[None]:
    """Cancel the body of the context when the client leaves, and raise ``WebSocketDisconnect`` from it.

    An endpoint that only sends learns that its client has left when a message cannot be sent, which is late before the
    first item of a stream, and never under servers that drop such messages:

        @app.websocket("/generate")
        async def generate(socket: WebSocket) -> None:
            await socket.accept()
            prompt = Prompt(await socket.receive_text())
            with suppress(WebSocketDisconnect):
                async with cancel_on_disconnect(socket):
                    async for token in flow.stream(prompt):
                        await socket.send_text(token)
                    await socket.close()

    The messages that the client sends meanwhile are kept: the endpoint can receive them in the body and after it. When
    64 KiB of them wait, the watch reads no more, and does not see the client leave until some were received. An asyncio
    task that waits for a message when the context begins must not go on to receive in it.

    Args:
        socket: A WebSocket that was accepted.

    Raises:
        WebSocketDisconnect: The client has left, or the server closes the connection because it stops.
    """
    inbox = getattr(socket.receive, "__self__", None)
    if not isinstance(inbox, Inbox):
        inbox = Inbox(socket)
    with inbox:
        try:
            with DisconnectWatch(inbox.wait_for_disconnect, at_once=True):
                yield
        except ClientDisconnect:
            raise inbox.error() from None


class Inbox:
    """Stands in for the ``receive`` of a WebSocket, so that messages can be read before the endpoint asks for them.

    A context manager for each use: a watch, or a call of `receive`. When no use is left, and no message, the WebSocket
    has its own ``receive`` again.

    Args:
        socket: The WebSocket.
    """

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._receive = socket.receive
        self._messages: deque[Message] = deque()
        self._size = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._last: Message | None = None
        self._reading: asyncio.Task[None] | None = None
        self._users = 0
        vars(socket)["receive"] = self.receive

    def __enter__(self) -> None:
        self._users += 1

    def __exit__(self, *exc_info: object) -> None:
        self._users -= 1
        if self._users:
            return
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if not self._messages:
            vars(self._socket).pop("receive", None)

    async def receive(self) -> Message:
        """Return the next message, as ``WebSocket.receive`` does."""
        with self:
            while not self._messages:
                await self._read()
            message = self._messages.popleft()
            self._size -= _size_of(message)
            self._has_room.set()
            return message

    async def wait_for_disconnect(self) -> Message:
        """Read until the client leaves, and keep what comes; return what a request would receive then."""
        while self._last is None:
            await self._has_room.wait()
            await self._read()
        return {"type": "http.disconnect"}

    def error(self) -> WebSocketDisconnect:
        """Return the error for an endpoint whose client has left."""
        last = self._last or {}
        return WebSocketDisconnect(last.get("code", 1006), last.get("reason"))

    async def _read(self) -> None:
        """Wait for one more message, in one call of the server for all its users: a cancelled user does not end it."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._keep_next())
        reading = self._reading
        await asyncio.wait([reading])
        reading.result()

    async def _keep_next(self) -> None:
        try:
            message = await self._receive()
        finally:
            self._reading = None
        self._messages.append(message)
        self._size += _size_of(message)
        if self._size >= READ_AHEAD:
            self._has_room.clear()
        if message["type"] == "websocket.disconnect":
            self._last = message


def _size_of(message: Message) -> int:
    return MESSAGE_SIZE + len(message.get("text") or message.get("bytes") or b"")
