"""The event loop of a worker whose handler has methods that are ``async def``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn


class EventLoop:
    """One event loop for `on_start`, all calls of ``handle``, and `on_stop`. It stands still in between."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end."""
        self._runner.run(coroutine)

    def close(self) -> None:
        """Cancel what is left in the loop, and close it."""
        self._runner.close()


def end_fork() -> NoReturn:
    """End a process that a coroutine has forked, which would be a second worker."""
    # Not with SystemExit: the end of the event loop would change the epoll set, which the worker shares.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(0)
