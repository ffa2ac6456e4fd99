"""Holds back signals that handlers of the event loop would get at once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Collection
from contextlib import suppress


class LoopSignals:
    """Stands between the system and the handlers of an event loop (``loop.add_signal_handler``).

    Python writes the number of every signal to the wakeup descriptor, from which the event loop reads it and calls its
    handler; there is no other way to call that. So numbers pass through here (`signal.set_wakeup_fd`), and those to
    hold are dropped until `send`.

    Args:
        loop: The running event loop, in the main thread.
        held: The signals to hold. The caller replaces their handlers in Python (``signal.signal``) as well: those of
            uvloop note the signal.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, held: Collection[int]) -> None:
        self._loop = loop
        self._held = held
        self._wakeup = -1
        self._reader: socket.socket
        self._writer: socket.socket

    def install(self) -> None:
        """Begin to hold signals. Does nothing where the event loop has no handlers."""
        self._wakeup = signal.set_wakeup_fd(-1)
        if self._wakeup < 0:
            return
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._loop.add_reader(self._reader, self._forward)

    def restore(self) -> None:
        """Let all signals pass again."""
        if self._wakeup < 0:
            return
        current = signal.set_wakeup_fd(self._wakeup)
        if current != self._writer.fileno():
            # Another one was installed later, such as by a handler that was added to the event loop.
            signal.set_wakeup_fd(current)
        self._loop.remove_reader(self._reader)
        self._forward()
        self._wakeup = -1
        self._reader.close()
        self._writer.close()

    def send(self, signum: int) -> None:
        """Call the event loop's handler of a signal, if it has one."""
        if self._wakeup >= 0:
            self._write(bytes([signum]))

    def _forward(self) -> None:
        with suppress(BlockingIOError):
            self._write(bytes(signum for signum in self._reader.recv(4096) if signum not in self._held))

    def _write(self, signums: bytes) -> None:
        # A full pipe wakes the event loop as well; a closed one belongs to a loop that has ended.
        with suppress(OSError):
            os.write(self._wakeup, signums)
