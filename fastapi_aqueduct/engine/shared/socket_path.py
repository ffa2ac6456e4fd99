"""Where the socket of a pipeline process lies: in a directory that only this user can enter."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from ...exceptions import ConfigurationError, StartError

MAX_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of the path of a socket (unix(7))."""


def check_path(path: str) -> None:
    """Check that a path can be that of a socket.

    Args:
        path: The path.

    Raises:
        ConfigurationError: It is relative, too long, or no path.
    """
    if not os.path.isabs(path) or "\0" in path or path.endswith("/"):
        raise ConfigurationError(
            f"the socket of a pipeline needs an absolute path such as unix:/run/ocr/flow.sock, got {path!r}"
        )
    if (size := len(os.fsencode(path))) > MAX_PATH:
        raise ConfigurationError(
            f"the path of a socket may have {MAX_PATH} bytes, and {path} has {size}: choose a shorter directory"
        )


def check_directory(directory: str | Path) -> None:
    """Check that only this user can enter a directory, so that only this user can put a socket there.

    Args:
        directory: The directory.

    Raises:
        FileNotFoundError: It does not exist.
        StartError: It belongs to another user, or other users can enter it.
    """
    try:
        found = os.stat(directory)
    except FileNotFoundError:
        raise  # it may come to exist
    except OSError as exc:
        raise StartError(f"the directory of the pipeline's socket cannot be used: {exc}") from exc
    if problem := _problem(found):
        raise StartError(
            f"the directory of the pipeline's socket, {directory}, {problem}: a process that puts a socket there could "
            f"run code in this one; use a directory of mode 0700 that user {os.geteuid()} owns"
        )


def make_directory(directory: str | Path) -> None:
    """Make a directory that only this user can enter, if it does not exist, and check it.

    Args:
        directory: The directory; the one that it lies in must exist.

    Raises:
        StartError: It cannot be made or used.
    """
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    except OSError as exc:
        raise StartError(f"the directory of the pipeline's socket cannot be made: {exc}") from exc
    check_directory(directory)


def host_directory() -> Path:
    """Return the directory for the sockets of this user's pipelines on this host; it exists.

    That is a directory in XDG_RUNTIME_DIR, which the system clears when the user logs out, or else in the directory for
    temporary files.

    Raises:
        StartError: It cannot be made, or it belongs to another user.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # A server that was started by root and has changed its user has that variable of root.
    if os.path.isabs(runtime) and _is_ours(runtime):
        directory = Path(runtime, "aqueduct")
    else:
        directory = Path(_temporary(), f"aqueduct-{os.geteuid()}")
    make_directory(directory)
    if directory.is_symlink():
        raise StartError(f"the directory of the pipeline's socket, {directory}, is a symbolic link: remove it")
    return directory


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as exc:  # a container whose file system is read-only
        raise StartError(
            f"there is no directory for the socket of a pipeline: {exc}; set XDG_RUNTIME_DIR to one of mode 0700 that "
            f"user {os.geteuid()} owns"
        ) from exc


def _is_ours(directory: str) -> bool:
    try:
        return _problem(os.stat(directory)) is None
    except OSError:
        return False


def _problem(found: os.stat_result) -> str | None:
    if not stat.S_ISDIR(found.st_mode):
        return "is no directory"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}"
    if found.st_mode & 0o077:
        return f"has mode {stat.S_IMODE(found.st_mode):04o}"
    return None
