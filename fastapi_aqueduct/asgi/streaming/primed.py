"""An asynchronous iterator that has made its first step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol


class Closing(Protocol):
    """An object that can be closed, more than once."""

    async def aclose(self) -> None:
        """Close it."""


class Primed:
    """The values of an asynchronous iterator, of which the first is there before it is asked for.

    Args:
        values: The iterator.
        deadline: When the iteration must have ended, on the clock of the event loop; None: at no time.
        source: What the iterator reads, which is closed after it; None: nothing.

    Attributes:
        first: The first value, or nothing if there is none.
        rest: Iterates over the others.
        deadline: As given.
    """

    def __init__(self, values: AsyncIterator[Any], deadline: float | None, source: Closing | None = None) -> None:
        self.first: list[Any] = []
        self.rest = values
        self.deadline = deadline
        self._source = source

    async def begin(self) -> None:
        """Make the first step.

        Raises:
            Exception: What the iterator raises in its first step.
        """
        async for value in self.rest:
            self.first.append(value)
            return
        self.rest = _nothing()  # the iteration of a stream that has ended cannot begin again

    async def aclose(self) -> None:
        """End the iterator, and what it reads. May be called more than once."""
        try:
            close = getattr(self.rest, "aclose", None)  # async generators and streams have it
            if close is not None:
                await close()
        finally:
            if self._source is not None:
                await self._source.aclose()

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over all values.

        Raises:
            TimeoutError: The deadline has passed.
        """
        while self.first:
            yield self.first.pop()
        while True:
            async with asyncio.timeout_at(self.deadline):
                try:
                    value = await anext(self.rest)
                except StopAsyncIteration:
                    return
            yield value


async def _nothing() -> AsyncIterator[Any]:
    return
    yield
