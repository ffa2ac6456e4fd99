"""The event loop of a pipeline process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

from ..system.peer import open_own_pidfd


def run_pipeline(main: Coroutine[Any, Any, None]) -> None:
    """Run the coroutine of a pipeline process, with uvloop where that is installed.

    In an API process the event loop is the server's choice. Here nothing else runs in it, and each task wakes it twice.

    Args:
        main: The coroutine.

    Raises:
        Exception: Raised by the coroutine.
    """
    with asyncio.Runner(loop_factory=_find_loop()) as runner:
        runner.run(main)


def _find_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    pidfd = open_own_pidfd()
    if pidfd < 0:
        return None  # uvloop may never see the end of the socket of an API process that is killed
    os.close(pidfd)
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None  # that of asyncio
    return new_event_loop
