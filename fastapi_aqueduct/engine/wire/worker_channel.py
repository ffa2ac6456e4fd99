"""A worker's end of its channel."""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from .frames import READ_SIZE, FrameReader, Kind, pack

MAX_POSTED = 1 << 20
"""Bytes of posted frames that may wait for space in the socket."""

_PIECE = 64 * 1024
"""Bytes of posted frames that are written at once."""


class WorkerChannel:
    """A worker's end. One thread receives, and any thread may send; both block. `post` never blocks.

    Args:
        sock: The socket.

    Attributes:
        is_closed: Whether it was closed, which happens only in a fork of the worker.
        on_space: Called when posted frames that had to wait have been written.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._lock = threading.Lock()  # the kernel may interleave long writes of two threads
        self._posted: deque[bytes] = deque()
        self._posted_size = 0
        # Reentrant: a signal handler or a finalizer that posts may interrupt a post in its own thread.
        self._post_lock = threading.RLock()
        self._rest = memoryview(b"")  # the rest of posted frames that the socket has accepted in part
        self._has_writer = False
        self.on_space: Callable[[], None] | None = None
        self.is_closed = False
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._reader = FrameReader()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def close(self) -> None:
        """Close this copy of the end, in a fork of the worker, which must not read the worker's frames."""
        self.is_closed = True
        self._lock = threading.Lock()  # another thread may have held the old ones at the fork
        self._post_lock = threading.RLock()
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, which hangs up when the API process ends."""
        return self._socket.fileno()

    def receive(self, timeout: float | None = None, busy_poll: float = 0.0) -> list[tuple[Kind, bytes]]:
        """Wait for frames.

        Args:
            timeout: Seconds to wait for the first bytes; None: without limit.
            busy_poll: Seconds to poll the socket before the thread sleeps.

        Returns:
            At least one frame; none after the timeout.

        Raises:
            EOFError: The API process has ended.
        """
        while True:
            is_readable = busy_poll > 0 and self._busy_poll(time.monotonic() + busy_poll)
            # Not a sleep in the read: Linux wakes that for free write space as well (unix_write_space), so whenever the
            # API process reads an answer, just when other processes need the core.
            if not is_readable and not self._poll.poll(None if timeout is None else timeout * 1000):
                return []
            try:
                size = self._socket.recv_into(self._buffer)
            except ConnectionResetError:
                size = 0
            if not size:
                raise EOFError("the API process has ended")
            if frames := self._reader.feed(self._buffer[:size]):
                return frames

    def _busy_poll(self, until: float) -> bool:
        # Not a non-blocking read: its exception costs three times as much as a poll.
        while not (is_readable := bool(self._poll.poll(0))) and time.monotonic() < until:
            os.sched_yield()  # on few cores the API process needs this one, to send the next task
        return is_readable

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame. May be called from any thread, but not from a signal handler, which may interrupt another call.

        Raises:
            OSError: The API process has ended.
        """
        frame = pack(kind, payload)
        with self._lock:
            while self._posted or self._rest:
                posted, self._rest = self._take(), memoryview(b"")
                self._socket.sendall(posted)
            self._socket.sendall(frame)
        if self._posted:
            self._write_posted()

    def post(self, kind: Kind, payload: bytes) -> bool:
        """Send a frame without blocking: at once, or else as soon as the socket has space.

        May be called at any point of a program, also in a signal handler or a finalizer.

        Returns:
            False if too much is waiting already; the frame is not sent then.

        Raises:
            OSError: The API process has ended.
        """
        frame = pack(kind, payload)
        size = len(frame)
        with self._post_lock:
            if self._posted_size + size > MAX_POSTED:
                return False
            self._posted_size += size
            self._posted.append(frame)
        self._write_posted()
        return True

    def finish_posts(self, timeout: float) -> None:
        """Wait until posted frames are sent, at the end of the worker.

        Args:
            timeout: Seconds to wait at most.
        """
        deadline = time.monotonic() + timeout
        with contextlib.suppress(OSError):
            while (self._posted or self._rest) and self._wait_for_space(max(0.0, deadline - time.monotonic())):
                self._write_posted()

    def _write_posted(self) -> None:
        """Write posted frames as far as the socket accepts them, unless another thread writes: that one continues."""
        while (self._posted or self._rest) and self._lock.acquire(blocking=False):
            try:
                is_blocked = not self._write_some()
            finally:
                self._lock.release()
            if is_blocked:
                self._write_later()
                return

    def _write_some(self) -> bool:
        """Write what the socket accepts at once, with the lock held.

        Returns:
            Whether it has accepted all.

        Raises:
            OSError: The API process has ended.
        """
        data, self._rest = self._take(), memoryview(b"")
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        self._rest = data[sent:]
        return not self._rest

    def _take(self) -> memoryview:
        """Return the next bytes to write, with the lock held."""
        if self._rest:
            return self._rest
        frames: list[bytes] = []
        size = 0
        # Frame by frame: what a signal handler posts meanwhile must not be lost.
        while self._posted and size < _PIECE:
            frame = self._posted.popleft()
            size += len(frame)
            frames.append(frame)
        with self._post_lock:
            self._posted_size -= size
        return memoryview(b"".join(frames))

    def _write_later(self) -> None:
        """Let a thread write the frames that wait, since user code may run for long before this one writes again."""
        with self._post_lock:
            if self._has_writer:
                return
            self._has_writer = True
        try:
            # Not threading.Thread: its start waits for locks that the interrupted code may hold.
            _thread.start_new_thread(self._write_when_possible, ())
        except RuntimeError:
            self._has_writer = False  # the system has no thread: the next frame tries again

    def _write_when_possible(self) -> None:
        with contextlib.suppress(OSError):  # the API process has ended
            while self._wait_for_space(None):
                with self._lock:
                    self._write_some()
                with self._post_lock:
                    if self._posted or self._rest:
                        continue
                    self._has_writer = False
                if self.on_space is not None:
                    self.on_space()
                return

    def _wait_for_space(self, timeout: float | None) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
