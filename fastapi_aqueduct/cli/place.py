"""The place where a pipeline process listens: a directory of this user's alone, and a lock."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..engine.shared.host_lock import HostLock
from ..engine.shared.socket_path import check_path, make_directory
from ..exceptions import ConfigurationError


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Have the only pipeline process at a path, during the context.

    Args:
        path: Absolute path of the socket. Its directory is made if there is none.

    Raises:
        ConfigurationError: It can be no path of a socket, or another process has it.
        StartError: The directory is not this user's alone, or there can be no lock in it.
    """
    check_path(str(path))
    make_directory(path.parent)
    lock = HostLock(path)
    try:
        fd = lock.take()
    except OSError as exc:
        raise ConfigurationError(f"the lock of the socket cannot be taken: {exc}") from exc
    if fd is None:
        raise ConfigurationError(f"another pipeline process listens at {path}: it holds {lock.file}")
    try:
        yield
    finally:
        lock.remove()
        os.close(fd)
