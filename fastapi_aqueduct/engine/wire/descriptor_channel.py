"""Exchanges messages and file descriptors between the API process and a template process."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence

_HEADER = struct.Struct("<IB")
_MOST = 16
"""Descriptors of one message, at most."""


class DescriptorChannel:
    """One end of a stream socket. Both directions block, and one thread at a time uses it.

    Descriptors travel beside the header of a message (unix(7): SCM_RIGHTS).

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock

    def fileno(self) -> int:
        """Return the descriptor, which is readable when a message has arrived or the other end is closed."""
        return self._socket.fileno()

    def send(self, body: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message.

        Args:
            body: The message.
            fds: Descriptors, of which the receiver gets copies.

        Raises:
            OSError: The other end is closed.
        """
        header = _HEADER.pack(len(body), len(fds))
        sent = socket.send_fds(self._socket, [header], fds) if fds else self._socket.send(header)
        self._socket.sendall(header[sent:] + body)

    def receive(self) -> tuple[bytes, list[int]]:
        """Wait for a message.

        Returns:
            The message, and the descriptors that came with it, which the caller closes. There are none if this process
            has too few left for them.

        Raises:
            EOFError, OSError: The other end is closed.
        """
        header, fds, flags, _ = socket.recv_fds(self._socket, _HEADER.size, _MOST)
        with contextlib.ExitStack() as undo:
            for fd in fds:
                undo.callback(os.close, fd)
                os.set_inheritable(fd, False)
            if not header:
                raise EOFError
            size, count = _HEADER.unpack(header + self._read(_HEADER.size - len(header)))
            body = self._read(size)
            if len(fds) != count or flags & socket.MSG_CTRUNC:
                return body, []
            undo.pop_all()
        return body, fds

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data
