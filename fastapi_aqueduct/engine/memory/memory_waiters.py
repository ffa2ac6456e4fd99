"""Callers that wait for shared memory."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...exceptions import ArenaFull, TaskTooLarge
from ..refusals import Refusals
from ..wait import Wait
from .arena import Arena


class MemoryWaiters:
    """Callers that wait until memory is freed.

    Args:
        arena: The shared memory.
        refusals: Counts the callers that get none.

    Attributes:
        on_shortage: Called when a caller begins to wait; it asks the workers for memory that they only keep warm.
        wanted: Bytes that tasks of this process wait for.
    """

    def __init__(self, arena: Arena, refusals: Refusals) -> None:
        self.on_shortage: Callable[[], None] = lambda: None
        self.wanted = 0
        self._arena = arena
        self._refusals = refusals
        self._sizes: dict[asyncio.Future[None], int] = {}
        self._watchers: Counter[Callable[[], None]] = Counter()

    def wait(self, full: ArenaFull, deadline: float) -> Wait[None]:
        """Wait until memory is freed or the deadline has passed.

        Args:
            full: The error of the allocation that failed.
            deadline: The time on the clock of ``time.monotonic``.

        Raises:
            TaskTooLarge: The allocation can never succeed.
            ArenaFull: The same error again: the deadline has passed already.
        """
        limit = self._arena.layout.limit
        if full.size > limit:
            raise self._refusals.count(
                TaskTooLarge(
                    f"a task needs {full.size} bytes of shared memory in one piece, "
                    f"and the flow has {limit} in all: raise memory_limit of the flow, or make tasks smaller",
                    size=full.size,
                )
            ) from full
        if time.monotonic() >= deadline:
            raise self._refusals.count(full)
        self.on_shortage()
        loop = asyncio.get_running_loop()
        freed = loop.create_future()
        self._sizes[freed] = full.size
        self.wanted += full.size
        timer = loop.call_later(deadline - time.monotonic(), _resolve, freed)
        try:
            with self.watch(self._wake):
                yield freed
        finally:
            timer.cancel()
            self.wanted -= self._sizes.pop(freed)

    @contextmanager
    def watch(self, on_freed: Callable[[], None]) -> Iterator[None]:
        """Call a function, in the running event loop, whenever memory is freed.

        A view may end in any thread; the loop is woken for that only while there is a watcher.

        Args:
            on_freed: Called once for each change, however many watchers have passed it.
        """
        loop = asyncio.get_running_loop()
        self._watchers[on_freed] += 1
        self._arena.mapping.wake = lambda: loop.call_soon_threadsafe(self.notify)
        try:
            yield
        finally:
            self._watchers[on_freed] -= 1
            if not self._watchers[on_freed]:
                del self._watchers[on_freed]
            if not self._watchers:
                self._arena.mapping.wake = None

    def notify_freed(self) -> None:
        """Tell the watchers that a block was freed."""
        if self._watchers:
            self.notify()

    def notify(self) -> None:
        """Look for ended views, and tell the watchers that memory was freed."""
        self._arena.collect()
        for on_freed in list(self._watchers):
            on_freed()

    def detach(self) -> None:
        """Wake the callers that wait in an event loop that no longer drives the flow."""
        self._arena.mapping.wake = None
        self._wake()

    def _wake(self) -> None:
        for freed in self._sizes:
            if not freed.get_loop().is_closed():
                _resolve(freed)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
