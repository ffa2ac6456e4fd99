"""Notices a second process of one server that does the same as the first one."""

from __future__ import annotations

import errno
import socket
import sys

from .server_identity import ServerIdentity, is_supervised, parent_age

START_TIME = 120.0
"""Seconds from the start of a server in which its processes start. One that starts later takes the place of another."""

_marks: dict[str, int] = {}
"""Descriptors of sockets, by name, which show other processes that this one was first; until its end."""


def is_second_process(*names: str) -> bool:
    """Return whether exactly one process of this server has called this before. Each process counts once.

    Always false on systems other than Linux, and where the parent of this process is no server that has started it as
    one of several: in a shell, a process manager or a test runner.

    Args:
        *names: What the processes do, such as run a flow.
    """
    if sys.platform != "linux" or parent_age() > START_TIME or not is_supervised():
        return False
    # A name of no file, which the kernel frees with the process (unix(7)).
    name = f"\0fastapi-aqueduct-{ServerIdentity.read().digest('second', *names)}"
    if name in _marks:
        return False
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(name)
        # There is place for one connection that is not accepted: for the second process, and not for the third one.
        sock.listen(0)
    except OSError as exc:
        with sock:
            return exc.errno == errno.EADDRINUSE and sock.connect_ex(name) == 0
    _marks[name] = sock.detach()
    return False
