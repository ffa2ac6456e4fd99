"""Sends the chunks of a response in an asyncio task of its own."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Message, Send

from ..stall import StallTimeout

FULL = 64 << 10
"""Bytes of chunks that wait to be sent at which their source must wait."""


class ChunkSender:
    """Sends the chunks of a response's body. Chunks that come faster than they can be sent become one message.

    A task of its own sends, not that of the source: it runs when the source waits for something, so a burst becomes one
    message, and no chunk waits for the next one. And the source, which may be code of the user with a scope of time
    limits or cancellation, runs in one task from its begin to its end.

    Args:
        send: ASGI channel to send to.
        head: The message before the first chunk.
        keep_alive: What is sent after ``interval`` without a chunk; empty: nothing.
        interval: Seconds.
        stall: Gives up a client that reads nothing; used as a context by `run`.
    """

    def __init__(self, send: Send, head: Message, keep_alive: bytes, interval: float, stall: StallTimeout) -> None:
        self._send = send
        self._head = head
        self._keep_alive = keep_alive
        self._interval = interval
        self._stall = stall
        self._chunks: list[bytes] = []
        self._size = 0
        self._has_ended = False
        self._has_failed = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, chunk: bytes) -> bool:
        """Add a chunk; return whether `drain` must be awaited before the next one.

        Raises:
            ClientDisconnect: The chunks before it could not be sent.
        """
        if self._has_failed:
            raise ClientDisconnect
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._reader is not None:
            self._wake_reader()
        return self._size >= FULL

    async def drain(self) -> None:
        """Wait until the next chunk may be added."""
        while self._size >= FULL and not self._has_failed:
            self._writer = self._loop.create_future()
            await self._writer

    def end(self) -> None:
        """Note that there are no more chunks."""
        self._has_ended = True
        self._wake_reader()

    async def run(self) -> Exception | None:
        """Send the head, and all chunks until `end`.

        Returns:
            The error of the server or of a middleware: ``ClientDisconnect`` for an ``OSError``; or that the client has
            stalled. It is not kept here, to which its frames refer.
        """
        if self._keep_alive:
            self._timer = self._loop.call_later(self._interval, self._tick)
        try:
            async with self._stall:
                await self._send_all()
        except OSError:
            return ClientDisconnect()
        except Exception as exc:
            return exc
        else:
            return None
        finally:
            self._has_failed = not self._has_ended
            self._wake_writer()
            if self._timer is not None:
                self._timer.cancel()

    async def _send_all(self) -> None:
        await self._send(self._head)
        while self._chunks or not self._has_ended:
            if self._chunks:
                await self._send_chunks()
            else:
                self._reader = self._loop.create_future()
                self._stall.is_idle = True
                await self._reader
                self._stall.is_idle = False

    async def _send_chunks(self) -> None:
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        self._wake_writer()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._sent_at = self._loop.time()
        self._stall.note()

    def _tick(self) -> None:
        # One timer for the whole response, which is late after a chunk: a new one for each would cost more than it.
        due_in = self._sent_at + self._interval - self._loop.time()
        if due_in <= 0:
            due_in = self._interval
            if self._reader is not None:  # nothing is being sent
                self.put(self._keep_alive)
        self._timer = self._loop.call_later(due_in, self._tick)

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _wake_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)
