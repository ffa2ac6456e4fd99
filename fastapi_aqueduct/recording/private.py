"""Whether only the user of this process can write a file or a directory of recorded tasks, which are pickles."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..exceptions import RecordingError

WHY = "a recorded task is a pickle, which can run any code when it is opened"


def check_owner(path: Path, found: os.stat_result) -> None:
    """Refuse a file or directory that other users can write.

    Args:
        path: Its path.
        found: What the system says of it.

    Raises:
        RecordingError: Other users can write it.
    """
    if found.st_uid != os.geteuid():
        raise RecordingError(
            f"{path} belongs to another user (uid {found.st_uid}, this process has {os.geteuid()}), and {WHY}: use it "
            "as that user, or copy what you trust"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RecordingError(
            f"other users can write {path} (mode {stat.S_IMODE(found.st_mode):o}), and {WHY}: put it where only you "
            f"can write (chmod go-w {path}), if you are sure where it comes from"
        )


def check_closed(path: Path, found: os.stat_result) -> None:
    """Refuse a directory that other users can read or write.

    Args:
        path: Its path.
        found: What the system says of it.

    Raises:
        RecordingError: Other users can look into it.
    """
    check_owner(path, found)
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RecordingError(
            f"the directory {path} of a recorder is open to other users (mode {stat.S_IMODE(found.st_mode):o}), and "
            f"tasks may be private: chmod 700 {path}, or give the recorder a directory that it can make"
        )
