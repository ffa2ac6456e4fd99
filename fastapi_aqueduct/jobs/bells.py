"""Wakes the processes of a store: one of them has changed it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from ..exceptions import StoreError

_SUFFIX = ".bell"
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW


class Bells:
    """A FIFO for each process, into which the others write a byte.

    SQLite tells no process of the changes of another one, and a FIFO, unlike a socket, may have a path of any length.

    Args:
        directory: Where the FIFOs are, and nothing else: it is listed in the event loop. `open` makes it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: Path | None = None
        self._fd = -1
        self._is_due = False

    def open(self, on_ring: Callable[[], object]) -> None:
        """Make the FIFO of this process.

        Args:
            on_ring: Called in the event loop after others have changed the store.

        Raises:
            StoreError: It cannot be made.
        """
        try:
            self._file = self._make()
        except OSError as exc:
            raise StoreError(f"no FIFO for the store of jobs can be made in {self._directory}: {exc}") from exc

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 65536)
            on_ring()

        asyncio.get_running_loop().add_reader(self._fd, read)

    def _make(self) -> Path:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        file = self._directory / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        unready = file.with_suffix(".new")
        os.mkfifo(unready, 0o600)
        # Open for writing, too: else it would be at its end whenever no other process has it open.
        self._fd = os.open(unready, os.O_RDWR | _FLAGS)
        return unready.rename(file)  # not before: a bell that no process has open is removed

    def ring(self) -> None:
        """Wake the others, once for all changes of this turn of the event loop. Does nothing before `open`."""
        if self._file is not None and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self.ring_now)

    def ring_now(self) -> None:
        """Wake the others, before `close`."""
        self._is_due = False
        if self._file is not None:
            for name in os.listdir(self._directory):
                if name.endswith(_SUFFIX) and name != self._file.name:
                    _write(self._directory / name)

    def close(self) -> None:
        """Remove the FIFO. May be called more than once."""
        file, self._file = self._file, None
        if file is None:
            return
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        file.unlink(missing_ok=True)


def _write(file: Path) -> None:
    try:
        fd = os.open(file, os.O_WRONLY | _FLAGS)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # its process has died
            file.unlink(missing_ok=True)
        return
    try:
        with contextlib.suppress(OSError):  # full: it was rung already; or it has just been closed
            os.write(fd, b"\0")
    finally:
        os.close(fd)
