"""Waits that are written once, and run in an asyncio task or without one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Wait = Generator[asyncio.Future[Any], None, T]
"""Yields each future whose end it waits for, and returns its result. Thrown into, it gives up."""


async def awaited(wait: Wait[T]) -> T:
    """Run a wait in the present asyncio task, whose cancellation is raised in it."""
    try:
        future = next(wait)
        while True:
            try:
                await future
            except BaseException as exc:
                future = wait.throw(exc)
            else:
                future = next(wait)
    except StopIteration as end:
        result: T = end.value
        return result


class DetachedWait(Generic[T]):
    """A wait that runs in callbacks of the futures.

    An event loop that ends cancels its asyncio tasks, or destroys them and complains; of this it knows nothing.

    Args:
        wait: The wait.
        on_result: Called with its result.
        on_error: Called with the exception that it raises.
    """

    def __init__(
        self, wait: Wait[T], on_result: Callable[[T], object], on_error: Callable[[Exception], object]
    ) -> None:
        self._wait = wait
        self._on_result = on_result
        self._on_error = on_error
        self._is_cancelled = False

    def advance(self, _: object = None) -> None:
        """Run it to the next future that is not done."""
        if self._is_cancelled:
            return
        try:
            future = next(self._wait)
        except StopIteration as end:
            self._on_result(end.value)
        except Exception as exc:
            self._on_error(exc)
        else:
            future.add_done_callback(self.advance)

    def cancel(self) -> None:
        """Give it up; neither function is called any more."""
        self._is_cancelled = True
        with contextlib.suppress(asyncio.CancelledError):
            self._wait.throw(asyncio.CancelledError())
