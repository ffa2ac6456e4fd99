"""Background threads of a flow."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

JOIN_TIME = 2.0
"""Seconds to wait for the end of a thread."""


class Background:
    """An event loop in a thread of its own, for a flow that no other loop drives.

    The thread is a daemon: Python joins other threads before it calls the functions registered with `atexit`, which end
    this one.

    Args:
        name: Name of the thread.

    Attributes:
        loop: The event loop, running.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, name: str) -> None:
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._has_begun.wait()

    @property
    def is_here(self) -> bool:
        """Whether the present thread is this one."""
        return threading.current_thread() is self._thread

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs; in a fork of this process it does not."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Make the loop end when all its tasks have ended. May be called from any thread, and repeatedly."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self._end.set)

    def join(self) -> None:
        """Wait, in another thread, until this one has ended."""
        self._thread.join(JOIN_TIME)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the loop's thread and wait until it has returned.

        Raises:
            TimeoutError: The function has not returned within `JOIN_TIME`.
            BaseException: The exception of the function.
        """

        async def run() -> None:
            function()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(JOIN_TIME)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._has_begun.set()
        await self._end.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=JOIN_TIME)


def run_in_thread(function: Callable[[], object]) -> None:
    """Call a function in a new thread and wait for it.

    Raises:
        BaseException: The exception of the function.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run, name="aqueduct-start")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
