"""What the processes at the two ends of a Unix socket know of each other: the user, and a descriptor of the process."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys

_NO_PIDFDS = (errno.ENOSYS, errno.EPERM, errno.EACCES)
"""Errors of a kernel or a sandbox without pidfds."""


def open_own_pidfd() -> int:
    """Return a pidfd of this process; -1 where the system has no such descriptor.

    Raises:
        OSError: No descriptor is left.
    """
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(os.getpid())
    except OSError as exc:
        if exc.errno in _NO_PIDFDS:
            return -1
        raise


if sys.platform == "linux":
    _PEER = struct.Struct("iII")  # pid, uid and gid (unix(7): SO_PEERCRED)

    def peer_user(sock: socket.socket) -> int:
        """Return the user of the process that has connected, or that listens."""
        _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return int(uid)

else:
    _PEER = struct.Struct("Ii")  # version and uid, the beginning of struct xucred (unix(4): LOCAL_PEERCRED)
    _SOL_LOCAL, _LOCAL_PEERCRED, _PEER_SIZE = 0, 1, 76

    def peer_user(sock: socket.socket) -> int:
        """Return the user of the process that has connected, or that listens."""
        _, uid = _PEER.unpack_from(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _PEER_SIZE))
        return int(uid)
