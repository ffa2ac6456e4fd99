"""The file of a recorded task.

    fastapi-aqueduct task 1\\n      its kind, and the version of the format
    {"flow": "ocr", ...}\\n         what happened, as JSON in one line
    ...                            the task: sizes and pickle, then its large buffers, as of `packing`

The first two lines can be read without the code of the flow, and nothing is unpickled for them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..engine.wire.arrays import array_type
from ..engine.wire.packing import THRESHOLD, Packed, positions, unpack
from ..exceptions import NotShareable, RecordingError
from ..task import BaseTask
from .private import check_owner

MAGIC = b"fastapi-aqueduct task "
VERSION = b"1"

_LONGEST_LINE = 16 << 20
_PARTS = ("exception", "worker", "fields", "packages")


Parts = Sequence[bytes | memoryview]
"""What a file consists of, one after the other."""


def task_file_parts(metadata: Mapping[str, Any], packed: Packed) -> Parts:
    """Return what is written to a file.

    Args:
        metadata: What happened.
        packed: The task.
    """
    line = json.dumps({**metadata, "head": len(packed.head)})
    parts: list[bytes | memoryview] = [MAGIC + VERSION + b"\n", line.encode() + b"\n", packed.head]
    end = 0
    for place, buffer in zip(positions([len(buffer) for buffer in packed.buffers]), packed.buffers, strict=True):
        parts += [bytes(place - end), buffer]
        end = place + len(buffer)
    return parts


class TaskFile:
    """A recorded task.

    Args:
        path: The file.
        metadata: What happened.
        body: What follows it.

    Attributes:
        path: As given.
        metadata: As given.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any], body: bytearray) -> None:
        self.path = path
        self.metadata = metadata
        self._body = body

    @classmethod
    def read(cls, path: Path, is_trusted: bool = False) -> TaskFile:
        """Read a file. Nothing of it is unpickled.

        Args:
            path: The file.
            is_trusted: Whether others may own or write it, or its directory.

        Raises:
            RecordingError: It is no recorded task, or other users can write it.
        """
        try:
            with _open(path, is_trusted) as file:
                return cls(path, _read_metadata(path, file), bytearray(file.read()))
        except OSError as exc:
            raise RecordingError(f"{path} cannot be read: {exc.strerror}") from exc

    @staticmethod
    def read_metadata(path: Path) -> dict[str, Any]:
        """Read what happened, also from a file that is not trusted.

        Raises:
            RecordingError: It is no recorded task.
        """
        try:
            with _open(path, is_trusted=True) as file:
                return _read_metadata(path, file)
        except OSError as exc:
            raise RecordingError(f"{path} cannot be read: {exc.strerror}") from exc

    def make_task(self) -> BaseTask:
        """Unpickle the task, a new one with each call. It has no deadline.

        Its large fields are read-only, as in a worker; those that were shared for writing are so again.

        Raises:
            RecordingError: The file is cut off, or the task cannot be restored here; the cause says why.
        """
        head = self.metadata["head"]
        content = memoryview(self._body[head:])  # a copy: a handler may write what was shared for writing
        try:
            task = unpack(bytes(self._body[:head]), content, self._load)
        except Exception as exc:
            raise RecordingError(
                f"the {self.metadata.get('task')} in {self.path} cannot be restored: {type(exc).__name__}: {exc}"
            ) from exc
        task.__dict__.pop("expiration_time", None)  # on the clock of another machine
        _share_again(task)
        return task

    def copy_to(self, file: BinaryIO) -> None:
        """Write the same to another file."""
        file.write(MAGIC + VERSION + b"\n" + json.dumps(self.metadata).encode() + b"\n")
        file.write(self._body)

    def _load(self, data: memoryview, buffers: Sequence[memoryview]) -> Any:
        module, _, _ = (self.metadata.get("target") or "__main__").partition(":")
        return _TaskUnpickler(io.BytesIO(data), buffers=buffers, main=module).load()


class _TaskUnpickler(pickle.Unpickler):
    """Finds what was in the program that was run: here it is a module.

    Args:
        stream: The pickled task.
        buffers: Its buffers.
        main: Name of the module.
    """

    def __init__(self, stream: io.BytesIO, buffers: Sequence[memoryview], main: str) -> None:
        super().__init__(stream, buffers=buffers)
        self._main = main

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(self._main if module == "__main__" else module, name)


def _share_again(task: BaseTask) -> None:
    kind: Any = array_type()
    for name, value in list(vars(task).items()):
        # Any other array of this size is read-only in a worker.
        if type(value) is kind and value.flags.writeable and value.nbytes >= THRESHOLD:
            with contextlib.suppress(NotShareable):  # an array of objects, which workers may write as well
                task.share_value(name)


def _open(path: Path, is_trusted: bool) -> BinaryIO:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise RecordingError(f"{path} is no regular file")
        if not is_trusted:
            check_owner(path, found)
            check_owner(path.absolute().parent, os.stat(path.absolute().parent))
        return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def _read_metadata(path: Path, file: BinaryIO) -> dict[str, Any]:
    first = file.readline(100)
    if not first.startswith(MAGIC):
        raise RecordingError(f"{path} is no recorded task")
    if first != MAGIC + VERSION + b"\n":
        raise RecordingError(
            f"{path} has version {first[len(MAGIC) :].decode('latin-1').strip()!r} of the format, and this package "
            f"reads version {VERSION.decode()}: use the version of fastapi_aqueduct that has written it"
        )
    try:
        metadata = json.loads(file.readline(_LONGEST_LINE))
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict) or type(metadata.get("head")) is not int or not _has_parts(metadata):
        raise RecordingError(f"{path} is damaged: its second line is not what was recorded")
    return metadata


def _has_parts(metadata: Mapping[str, Any]) -> bool:
    return all(isinstance(metadata.get(name, {}), dict) for name in _PARTS)
