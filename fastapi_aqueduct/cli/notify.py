"""Tells systemd, or another service manager, when this process is ready and when it stops."""

from __future__ import annotations

import contextlib
import os
import socket


class Notifier:
    """Sends the messages of sd_notify(3); does nothing without a service manager that wants them.

    The variable NOTIFY_SOCKET is removed from the environment: the processes that this one starts must not send any.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def send(self, message: str) -> None:
        """Send a message, such as ``READY=1``."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), address)
