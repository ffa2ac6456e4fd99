"""An asynchronous iterator that has made its first step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol


class Closing(Protocol):
    """An object that can be closed."""

    async def aclose(self) -> object:
        """Close it."""


class Primed:
    """The values of an asynchronous iterator, of which the first is there before it is asked for.

    Args:
        values: The iterator, an async generator.
        source: What it reads, which ends with it.
        deadline: When the iteration must have ended, on the clock of the event loop; None: at no time.

    Attributes:
        first: The first value, or nothing if there is none.
        rest: Iterates over the others.
        deadline: As given.
    """

    def __init__(self, values: AsyncGenerator[Any, None], source: Closing, deadline: float | None) -> None:
        self.first: list[Any] = []
        self.rest = values
        self._source = source
        self.deadline = deadline

    async def begin(self) -> None:
        """Make the first step.

        Raises:
            Exception: What the iterator raises in its first step.
        """
        async for value in self.rest:
            self.first.append(value)
            return

    async def aclose(self) -> None:
        """End the iterator, and what it reads. May be called more than once."""
        try:
            await self.rest.aclose()
        finally:
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
