"""FlowStream: the items of a task, as its caller iterates over them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ...exceptions import UsageError
from .outlet import Outlet
from .streams import Streams

T = TypeVar("T")

Guarded = contextlib.AbstractContextManager[object]


class FlowStream(Generic[T]):
    """The items of a task: an asynchronous iterator, and a context manager that ends the stream.

    The task begins with the first step of the iteration. Its fields are set when the iteration has ended. An end of the
    iteration before (``break``, a cancellation, ``aclose``, no reference any more) ends the task: the handler's
    generator is closed when its turn returns.

    Args:
        outlet: Receives the items.
        submit: Submits the task with its outlet; returns its number.
        withdraw: Ends a task by its number.
        streams: Takes items from the outlet.
        guard: Makes a context for the wait for the first item.
    """

    def __init__(
        self,
        outlet: Outlet,
        submit: Callable[[Outlet], Awaitable[int]],
        withdraw: Callable[[int], None],
        streams: Streams,
        guard: Callable[[], Guarded],
    ) -> None:
        self._outlet = outlet
        self._submit = submit
        self._withdraw = withdraw
        self._streams = streams
        self._guard = guard
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_waiting = False
        self._has_ended = False

    def __aiter__(self) -> Self:
        """Return the stream itself.

        Raises:
            UsageError: The stream has ended. The items of a task can be read once.
        """
        if self._has_ended:
            raise UsageError("this stream has ended, and its items can be read once: call flow.stream() again")
        return self

    async def __anext__(self) -> T:
        """Wait for the next item.

        Raises:
            UsageError: Another asyncio task waits for an item of this stream.
            Exception: As for `Flow.stream`.
        """
        if not self._outlet:
            await self._wait()
        if self._outlet:
            try:
                item: T = self._streams.take(self._number, self._outlet)
            except BaseException:
                self._leave()
                raise
            return item
        self._has_ended = True
        error = self._outlet.pop_error()
        try:
            raise StopAsyncIteration if error is None else error
        finally:
            del error  # it refers to this frame; as a cycle both would keep the memory of the task

    async def _wait(self) -> None:
        if self._has_ended:
            return
        if self._is_waiting:
            raise UsageError("two asyncio tasks wait for items of one stream; give each a stream of its own")
        self._is_waiting = True
        try:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
                with self._guard():
                    self._number = await self._submit(self._outlet)
                    await self._outlet.wait()
            else:
                await self._outlet.wait()
        except BaseException:
            self._leave()
            raise
        finally:
            self._is_waiting = False

    async def aclose(self) -> None:
        """End the stream, as ``break`` does when there is no other reference to it. May be called more than once."""
        self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._has_ended = True
        _end(self._streams, self._outlet, self._number, self._withdraw)

    def __del__(self) -> None:
        if self._loop is None or self._has_ended:
            return
        # Not at once: garbage may be collected in any thread, and in the middle of any function of the engine.
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so is the flow's use of it
            self._loop.call_soon_threadsafe(_end, self._streams, self._outlet, self._number, self._withdraw)


def _end(streams: Streams, outlet: Outlet, number: int, withdraw: Callable[[int], Any]) -> None:
    withdraw(number)
    streams.discard(outlet)
