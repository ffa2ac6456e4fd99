"""The directory of a recorder: which files are in it, and which of them go."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from ..exceptions import RecordingError
from .private import check_closed

SUFFIX = ".task"

_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-(.+)-[0-9a-f]{8}\.task")
_UNFINISHED = re.compile(r"\.\d{8}T.+\.task")
_STALE_AFTER = 3600.0  # then a file that is not finished belongs to a process that was killed


def file_name(flow: str, step: str, error: str, at: datetime) -> str:
    """Return a new name of a file. Names sort by time.

    Args:
        flow: Name of the flow.
        step: Name of the step.
        error: Name of the class of the exception.
        at: The time.
    """
    parts = (re.sub(r"[^A-Za-z0-9_]+", "_", text)[:40] for text in (flow, step, error.rpartition(".")[2]))
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{'-'.join(parts)}-{secrets.token_hex(4)}{SUFFIX}"


def surplus(files: Mapping[str, int], keep: int, max_size: int) -> Iterator[str]:
    """Choose the files that are too many: the oldest of the flow, step and exception that has the most.

    So a failure that comes often does not displace one that comes once.

    Args:
        files: The sizes of the files in bytes by their names.
        keep: The most files.
        max_size: The most bytes of all together.

    Yields:
        Their names.
    """
    left = dict(sorted(files.items()))
    total = sum(left.values())
    kinds = {name: _kind(name) for name in left}
    counts = Counter(kinds.values())
    while left and (len(left) > keep or total > max_size):
        most = max(counts.values())
        name = next(name for name in left if counts[kinds[name]] == most)
        total -= left.pop(name)
        counts[kinds[name]] -= 1
        yield name


def _kind(name: str) -> str:
    found = _NAME.fullmatch(name)
    return found[1] if found else ""


class Directory:
    """A directory of files of tasks, which only its user can read. Several processes may use it.

    Args:
        path: Its path.

    Attributes:
        path: As given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make the directory if there is none.

        Raises:
            RecordingError: There can be none, or other users can look into it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise RecordingError(f"the directory {self.path} of a recorder cannot be made: {exc}") from exc
        with self._opened():
            pass

    def add(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Write a file; it is there as a whole or not at all.

        Args:
            name: Its name.
            write: Writes its content.

        Raises:
            RecordingError: The directory cannot be used.
            OSError: The file cannot be written.
        """
        unfinished = f".{name}"
        with self._opened() as directory:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(unfinished, flags, 0o600, dir_fd=directory)
            try:
                with open(fd, "wb") as file:
                    write(file)
                    file.flush()
                    os.fsync(fd)
                os.rename(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                _unlink(unfinished, directory)
                raise

    def prune(self, keep: int, max_size: int) -> None:
        """Remove the files that are too many.

        Args:
            keep: The most files.
            max_size: The most bytes of all together.

        Raises:
            RecordingError: The directory cannot be used.
            OSError: A file cannot be removed.
        """
        with self._opened() as directory:
            files: dict[str, int] = {}
            for name in os.listdir(directory):
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    if _NAME.fullmatch(name) and stat.S_ISREG(found.st_mode):
                        files[name] = found.st_size
                    elif _UNFINISHED.fullmatch(name) and time.time() - found.st_mtime > _STALE_AFTER:
                        os.unlink(name, dir_fd=directory)
            # Another process that sees the same files chooses the same ones.
            for name in surplus(files, keep, max_size):
                _unlink(name, directory)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            raise RecordingError(
                f"{self.path} cannot be the directory of a recorder, which follows no symbolic link: {exc.strerror}"
            ) from exc
        try:
            check_closed(self.path, os.fstat(fd))
            yield fd
        finally:
            os.close(fd)


def _unlink(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process has removed it
        os.unlink(name, dir_fd=directory)
