"""Whether only the user of this process can write a file of jobs, which contains pickles."""

from __future__ import annotations

import os
from pathlib import Path

from ..exceptions import StoreError


def check_private(path: Path, found: os.stat_result) -> None:
    """Refuse a file or a directory that other users can write: a pickle may call any function when it is read.

    Args:
        path: Its path.
        found: What the system says of it.

    Raises:
        StoreError: Other users can write it.
    """
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise StoreError(
            f"{path} can be written by other users, who could put tasks into it: its owner must be the user of this "
            "process, and no other one may write it (chmod go-w)"
        )
