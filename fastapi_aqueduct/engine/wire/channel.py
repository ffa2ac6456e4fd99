"""The connection between the API process and a worker, a pair of stream sockets, and the API process's end of it.

Each worker has a pair of its own, so a worker that is killed at any instruction affects no other one. Only this module
and `worker_channel` use sockets.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import termios
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..system.fair_timer import FairTimer
from ..timing import DEFAULT_TIMING
from .frames import READ_SIZE, FrameReader, Kind, ProtocolError

if TYPE_CHECKING:
    import asyncio

_BUFFER_SIZE = 1 << 20

_GONE = (BrokenPipeError, ConnectionResetError)
"""Errors of sending to a dead worker."""

_LEAST_PROGRESS = 1 << 20
"""Bytes of an unfinished frame that must arrive in each `frame_timeout`: a worker writes at the speed of memory."""


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return the sockets of a channel: the API process's end and the worker's end.

    Raises:
        OSError: No descriptor or no memory is left.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_SIZE)
    except OSError:
        ours.close()
        theirs.close()
        raise
    return ours, theirs


def close_connection(sock: socket.socket) -> None:
    """Close a connected socket whose other end goes on, and sees it.

    With unread bytes in it the other end would get an error, after which uvloop never tells of the end.

    Args:
        sock: The socket.
    """
    with contextlib.suppress(OSError):  # it is closed already, or the other end is
        sock.shutdown(socket.SHUT_RDWR)  # nothing more arrives
        while sock.recv(READ_SIZE):
            pass
    sock.close()


class Channel:
    """The API process's end. Never blocks.

    Args:
        sock: The socket.
        on_frames: Called with the frames that have arrived.
        on_end: Called once when the worker has closed its end: it has ended or is ending.
        on_garbage: Called once when the bytes that arrive are no frames, or an unfinished frame makes no progress;
            nothing more is read then.
        frame_timeout: Seconds after which an unfinished frame without progress counts as garbage.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_frames: Callable[[list[tuple[Kind, bytes]]], None],
        on_end: Callable[[], None],
        on_garbage: Callable[[ProtocolError], None],
        frame_timeout: float = DEFAULT_TIMING.frame_timeout,
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._reader = FrameReader()
        self._unsent: deque[memoryview] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_frames = on_frames
        self._on_end = on_end
        self._on_garbage = on_garbage
        self._frame_timeout = frame_timeout
        self._is_garbled = False
        self._stall = FairTimer(self._check_stall)
        self._is_stalled = False
        self._progress = 0

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read and write in an event loop."""
        self._loop = loop
        if not self._is_garbled:
            loop.add_reader(self._socket, self._on_readable)
        if self._unsent:
            loop.add_writer(self._socket, self._flush)

    def detach(self) -> None:
        """Leave the event loop; frames that arrive meanwhile wait in the socket."""
        if self._loop is not None and not self._loop.is_closed() and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._end_stall()
        self._loop = None

    def has_unread(self) -> bool:
        """Tell whether the socket has unread bytes, or the worker has closed its end."""
        if self._socket.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def is_behind(self) -> bool:
        """Tell whether the worker has not read all that was sent to it; False where the system cannot tell."""
        if self._unsent:
            return True
        try:
            return any(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):
            return False

    @property
    def waiting(self) -> int:
        """Number of pieces that wait to be sent, since the worker does not read."""
        return len(self._unsent)

    def stop_reading(self) -> None:
        """Read nothing more, since the bytes that arrive are not valid."""
        self._is_garbled = True
        self._end_stall()
        if self._loop is not None and not self._loop.is_closed() and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)

    def send(self, data: bytes) -> None:
        """Send frames: at once as far as the socket accepts them, the rest from the event loop.

        Frames to a dead worker are dropped without an error: `on_end` reports the death.
        """
        if self._unsent or self._socket.fileno() < 0:
            self._unsent.append(memoryview(data))
            return
        try:
            sent = self._socket.send(data)
        except _GONE:
            return
        except OSError:  # the socket is full, or the kernel has no memory for it: later
            sent = 0
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
            if self._loop is not None:
                self._loop.add_writer(self._socket, self._flush)

    def drain(self) -> list[tuple[Kind, bytes]]:
        """Read all frames that a dead worker has left in the socket, up to the first invalid one."""
        frames: list[tuple[Kind, bytes]] = []
        while not self._is_garbled:
            try:
                size = self._socket.recv_into(self._buffer)
            except ConnectionResetError:
                continue  # raised once when the worker has left unread bytes; its answers follow
            except OSError:
                return frames
            if not size:
                return frames
            try:
                frames += self._reader.feed(self._buffer[:size])
            except ProtocolError:
                self._is_garbled = True
        return frames

    def close(self) -> None:
        """Close this end; the worker notices and exits."""
        self.detach()
        self._unsent.clear()
        close_connection(self._socket)

    def forget(self) -> None:
        """Close this end without the event loop; for a forked child, which shares the loop's epoll set."""
        self._loop = None
        self._socket.close()

    def _on_readable(self) -> None:
        try:
            size = self._socket.recv_into(self._buffer)
        except (BlockingIOError, ConnectionResetError):
            return
        if not size:
            self.detach()
            self._on_end()
            return
        try:
            frames = self._reader.feed(self._buffer[:size])
        except ProtocolError as exc:
            self._reject(exc)
            return
        if not frames:
            self._note_stall(size)
            return
        if self._is_stalled:
            self._end_stall()
        self._on_frames(frames)

    def _reject(self, error: ProtocolError) -> None:
        self.stop_reading()
        self._on_garbage(error)

    def _note_stall(self, size: int) -> None:
        self._progress += size
        if not self._is_stalled and self._loop is not None:
            self._is_stalled = True
            self._stall.start(self._loop, self._frame_timeout)

    def _check_stall(self) -> None:
        # Garbage may look like the header of a long frame, and all answers that follow like its payload.
        progress, self._progress = self._progress, 0
        if progress < _LEAST_PROGRESS:
            self._reject(ProtocolError(f"an unfinished frame made no progress in {self._frame_timeout:g} s"))
        elif self._loop is not None:
            self._stall.start(self._loop, self._frame_timeout)

    def _end_stall(self) -> None:
        self._is_stalled = False
        self._progress = 0
        self._stall.cancel()

    def _flush(self) -> None:
        try:
            while self._unsent:
                piece = self._unsent[0]
                sent = self._socket.send(piece)
                if sent < len(piece):
                    self._unsent[0] = piece[sent:]
                    return
                self._unsent.popleft()
        except _GONE:
            self._unsent.clear()
        except OSError:
            return
        if self._loop is not None:
            self._loop.remove_writer(self._socket)
