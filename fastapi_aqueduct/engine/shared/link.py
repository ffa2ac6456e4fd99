"""The connection to a pipeline process, in an API process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from ..wire.channel import Channel
from ..wire.frames import Kind
from .handshake import ClientEnd


class Link:
    """The connection to a pipeline process.

    It has ended when the socket or the process has: under uvloop the end of a socket with unread bytes is never seen.

    Args:
        end: The connection, after the greeting. Its socket and the pidfd belong to this object.
        on_frames: Called with the frames that have arrived.
        on_end: Called once with the reason when the connection has ended.
    """

    def __init__(
        self,
        end: ClientEnd,
        on_frames: Callable[[list[tuple[Kind, bytes]]], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._pid = end.welcome.pid
        self._pidfd = end.pidfd
        self._channel = Channel(end.sock, on_frames, self._end, self._distrust)
        self._on_frames = on_frames
        self._on_end = on_end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_ended = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read and write in an event loop."""
        self._loop = loop
        self._channel.attach(loop)
        if self._pidfd >= 0:
            loop.add_reader(self._pidfd, self._end)

    def detach(self) -> None:
        """Leave the event loop; frames that arrive meanwhile wait in the socket."""
        loop, self._loop = self._loop, None
        self._channel.detach()
        if loop is not None and not loop.is_closed() and self._pidfd >= 0:
            loop.remove_reader(self._pidfd)

    def send(self, data: bytes) -> None:
        """Send packed frames; after the end they are dropped."""
        self._channel.send(data)

    def close(self) -> None:
        """Close the connection."""
        self.detach()
        self._has_ended = True
        self._channel.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def forget(self) -> None:
        """Close the descriptors in a forked child, without the event loop."""
        self._loop = None
        self._channel.forget()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._on_frames(self._channel.drain())  # answers that it has sent before its end
            self._finish(f"the pipeline process (pid {self._pid}) has ended")

    def _distrust(self, error: Exception) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._finish(f"the pipeline process (pid {self._pid}) has sent an invalid message: {error}")

    def distrust(self, error: Exception) -> None:
        """End the connection, because the pipeline process has sent an invalid message.

        Args:
            error: What is wrong.
        """
        self._channel.stop_reading()
        self._distrust(error)

    def _finish(self, reason: str) -> None:
        self.close()
        self._on_end(reason)
