"""The lock of a store: one process runs its jobs."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path

from ..exceptions import StoreError

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class StoreLock:
    """A lock that the kernel frees however its owner ends, and that others can wait for without polling.

    The owner holds a ``flock`` on a file, and the end for writing of a FIFO. A process that waits reads from the FIFO:
    it gets the end of the file when the owner closes it or dies (pipe(7)). A blocking ``flock`` could not be given up.

    Args:
        directory: Where the file and the FIFO are.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "owner.lock"
        self._fifo = directory / "owner.alive"
        self._held: list[int] = []
        self._reader: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process is the owner."""
        return bool(self._held)

    def take(self) -> bool:
        """Take the lock; return False if another process has it.

        Raises:
            StoreError: The files cannot be made.
        """
        try:
            return self._take()
        except OSError as exc:
            raise StoreError(f"the lock of the store of jobs {self._file} cannot be used: {exc}") from exc

    def _take(self) -> bool:
        self._stop_reading()
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._fifo, 0o600)
        # Before the lock: a process that finds the lock taken finds a writer, whose end it sees.
        writer = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | _FLAGS)
        fd = os.open(self._file, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            self._reader = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK | _FLAGS)
            os.close(writer)
            return False
        self._held = [fd, writer]
        return True

    async def wait(self, timeout: float | None) -> bool:
        """Wait until the lock is taken; return False if another process has it all the time.

        Args:
            timeout: Seconds to wait; None: for ever.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self.take():
                    await self._owner_ends()
        self._stop_reading()
        return self.is_held

    async def _owner_ends(self) -> None:
        assert self._reader is not None
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._reader, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._reader)

    def release(self) -> None:
        """Release the lock, if this process has it."""
        self._stop_reading()
        for fd in self._held:
            os.close(fd)
        self._held = []

    def _stop_reading(self) -> None:
        if self._reader is not None:
            os.close(self._reader)
            self._reader = None
