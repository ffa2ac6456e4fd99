"""FlowStream: the items of a task, as its caller iterates over them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar

from ...exceptions import ConfigurationError, UsageError
from ...params import NO_STREAM
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
        streams: Takes items from the outlet, and ends the stream.
        guard: Makes a context for the wait for the first item.
    """

    def __init__(
        self,
        outlet: Outlet,
        submit: Callable[[Outlet], Awaitable[int]],
        streams: Streams,
        guard: Callable[[], Guarded],
    ) -> None:
        self._outlet = outlet
        self._submit: Callable[[Outlet], Awaitable[int]] | None = submit
        self._streams = streams
        self._guard = guard
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_waiting = False
        self._has_ended = False

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> NoReturn:
        """Refuse a schema; FastAPI asks for one where a stream is an ordinary parameter.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(NO_STREAM)

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
            UsageError, Exception: As for `wait`.
        """
        items = self._outlet.items
        if self._is_waiting or not items:
            await self.wait()
        if not items:
            self._has_ended = True
            raise StopAsyncIteration
        try:
            item: T = self._streams.pop_item(self._number, self._outlet)
        except BaseException:
            self._leave()
            raise
        return item

    @property
    def is_ready(self) -> bool:
        """Whether the next item, or the end, has come: then the next step of the iteration does not wait."""
        return bool(self._outlet.items) or self._outlet.done() or self._has_ended

    async def wait(self) -> None:
        """Wait until the stream is ready. The first call begins the task.

        So a caller can learn how a task begins before it iterates: an error that comes before the first item is raised
        here. A cancellation ends the task.

        Raises:
            UsageError: Another asyncio task waits for an item of this stream, or it has begun in another event loop.
            Exception: As for the iteration of `Flow.stream`, if no item is left before the error.
        """
        if self._is_waiting:
            raise UsageError("two asyncio tasks wait for items of one stream; give each a stream of its own")
        if not self.is_ready:
            loop = asyncio.get_running_loop()
            if self._loop is not None and self._loop is not loop:
                raise UsageError("this stream has begun in another event loop: read it there")
            self._is_waiting = True
            try:
                await self._wait(loop)
            except GeneratorExit:
                self._leave_later()
                raise
            except BaseException:
                self._leave()
                raise
            finally:
                self._is_waiting = False
        error = None if self._outlet.items else self._outlet.pop_error()
        if error is not None:
            self._has_ended = True
            try:
                raise error
            finally:
                del error  # it refers to this frame; as a cycle both would keep the memory of the task

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            await self._outlet.wait()
            return
        self._loop = loop
        submit, self._submit = self._submit, None  # it refers to the task, which the caller may drop before the stream
        assert submit is not None
        with self._guard():
            self._number = await submit(self._outlet)
            del submit
            if self._has_ended:  # another asyncio task has closed it, while this one waited for a place in the queue
                self._leave()
            else:
                await self._outlet.wait()

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
        if self._loop is not None:
            self._streams.end(self._number, self._outlet)

    def _leave_later(self) -> None:
        # Garbage may be collected in any thread, and in the middle of any function of the engine.
        if self._loop is not None and not self._has_ended:
            self._streams.end_later(self._number, self._outlet)
        self._has_ended = True

    __del__ = _leave_later
