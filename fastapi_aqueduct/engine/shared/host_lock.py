"""The lock of a pipeline on this host. Its pipeline process holds it, so the kernel frees it however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_SUFFIX = ".lock"


class HostLock:
    """A file beside the socket of a pipeline, which is locked while that pipeline exists.

    Args:
        path: The path of the socket.

    Attributes:
        file: The path of the file.
    """

    def __init__(self, path: Path) -> None:
        self._socket = path
        self.file = path.with_name(path.name + _SUFFIX)

    def take(self) -> int | None:
        """Take the lock.

        Returns:
            A descriptor that holds the lock until it and its copies are closed; None if another process holds it.

        Raises:
            OSError: The file cannot be made.
        """
        while True:
            fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            if self._is_current(fd):
                return fd
            os.close(fd)  # the holder before has removed the file in between

    def remove(self) -> None:
        """Remove the socket and the file; the caller holds the lock."""
        for file in (self._socket, self.file):
            with contextlib.suppress(OSError):
                file.unlink()

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.file, follow_symlinks=False))
        except FileNotFoundError:
            return False


def held_beside(path: Path) -> Iterator[Path]:
    """Remove what pipelines that were killed have left in a directory, and yield the sockets of those that exist.

    Args:
        path: The path of a socket in that directory, which is left out.
    """
    for file in sorted(path.parent.glob(f"*{_SUFFIX}")):
        other = file.with_suffix("")
        if other == path:
            continue
        lock = HostLock(other)
        try:
            fd = lock.take()
        except OSError:
            continue
        if fd is None:
            yield other
        else:
            lock.remove()
            os.close(fd)
