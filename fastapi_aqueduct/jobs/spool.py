"""The files of jobs: large buffers of their tasks and results."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import mmap
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..engine.wire.packing import Packed, has_buffers, positions, unpack
from ..exceptions import StoreError, StoreFull
from ..logger import log
from ..task import BaseTask
from .private import check_private

TASK, RESULT = "task", "result"
"""The two files of a job, by their suffixes."""

ABANDONED_AFTER = 3600.0
"""Seconds after which a file without a job belongs to a process that was killed before it could store the job."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Spool:
    """A directory of files, which only its user can read.

    Args:
        path: The path of the directory, which `open` makes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        """Make the directory.

        Raises:
            StoreError: It cannot be made, or belongs to another user, who could put tasks into it.
        """
        try:
            self._path.mkdir(mode=0o700, exist_ok=True)
            found = self._path.stat()
        except OSError as exc:
            raise StoreError(f"the files of jobs cannot be in {self._path}: {exc}") from exc
        check_private(self._path, found)

    async def write(self, job: str, kind: str, packed: Packed) -> None:
        """Write the buffers of a task, and wait until they are on the disk. Does nothing where there are none.

        Raises:
            StoreFull: The disk is full, and nothing is left of the file.
            StoreError: The file cannot be written.
        """
        if packed.buffers:
            await asyncio.to_thread(self._write, self._file(job, kind), packed.buffers)

    async def read(self, job: str, kind: str, head: bytes) -> BaseTask:
        """Return a task whose large fields are views on its file.

        Raises:
            Exception: The file is missing, or as for `unpack`.
        """
        return await asyncio.to_thread(self._read, self._file(job, kind), head)

    async def remove(self, jobs: Iterable[str], *kinds: str) -> None:
        """Remove the files of jobs. One that cannot be removed is logged: it must not keep what has become of a job."""
        files = [self._file(job, kind) for job in jobs for kind in kinds or (TASK, RESULT)]
        if files:
            await asyncio.to_thread(_unlink, files)

    def abandoned(self) -> Iterator[str]:
        """Yield the ids of jobs that have old files."""
        with os.scandir(self._path) as entries:
            for entry in entries:
                job, _, kind = entry.name.partition(".")
                with contextlib.suppress(FileNotFoundError):
                    if kind in (TASK, RESULT) and time.time() - entry.stat().st_mtime > ABANDONED_AFTER:
                        yield job

    def _file(self, job: str, kind: str) -> Path:
        return self._path / f"{job}.{kind}"

    def _write(self, file: Path, buffers: list[memoryview]) -> None:
        try:
            # A file of an earlier attempt, of which the result was not stored, is written anew.
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                for place, buffer in zip(positions([len(item) for item in buffers]), buffers, strict=True):
                    _write_at(fd, buffer, place)
                os.fsync(fd)
            finally:
                os.close(fd)
            self._sync_directory()
        except OSError as exc:
            with contextlib.suppress(OSError):
                file.unlink()
            if exc.errno in _FULL:
                raise StoreFull(f"no space is left for the files of jobs in {self._path}: {exc}") from exc
            raise StoreError(f"the file {file} of a job cannot be written: {exc}") from exc

    def _sync_directory(self) -> None:
        # Else the file may have no name after a loss of power (fsync(2)).
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _read(self, file: Path, head: bytes) -> BaseTask:
        if not has_buffers(head):
            return unpack(head, memoryview(b""))
        try:
            with file.open("rb") as opened:
                content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as exc:  # without the path: clients see it
            raise StoreError(f"its file cannot be read: {exc.strerror}") from exc
        return unpack(head, memoryview(content))


def _write_at(fd: int, buffer: memoryview, place: int) -> None:
    while buffer:
        written = os.pwrite(fd, buffer, place)
        buffer = buffer[written:]
        place += written


def _unlink(files: list[Path]) -> None:
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as exc:
            log.error("the file %s of a job cannot be removed: %s", file, str(exc))
