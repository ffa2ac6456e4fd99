"""Handlers that are tried out beside those that serve: canaries and shadows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from .engine.statistics import TrialReport
from .engine.trial import ShadowControl, TrialControl
from .exceptions import UsageError
from .reports import TaskPair

T = TypeVar("T", bound=TrialControl)


class HandlerTrial(Generic[T]):
    """A handler that is tried out, as a context manager.

    Args:
        open_trial: Starts its worker, and begins.
    """

    def __init__(self, open_trial: Callable[[], Awaitable[T]]) -> None:
        self._open_trial = open_trial
        self._trial: T | None = None

    async def __aenter__(self) -> Self:
        if self._trial is not None:
            raise UsageError(f"a {type(self).__name__} is entered once: call the method of the step again")
        self._trial = await self._open_trial()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._opened().close()

    def report(self) -> TrialReport:
        """Compare the handler with the one that serves: counts, errors and times so far. It stays after the end."""
        return self._opened().report()

    def _opened(self) -> T:
        if self._trial is None:
            name = type(self).__name__
            raise UsageError(f"this {name} has not begun: use `async with` with what the method of the step returns")
        return self._trial


class Canary(HandlerTrial[TrialControl]):
    """A handler that gets a share of the tasks of a step; `Step.canary` makes it.

    Args:
        open_trial: Starts its worker, and begins.
        on_promoted: Called when the handler is that of the step.
    """

    def __init__(
        self, open_trial: Callable[[], Awaitable[TrialControl]], on_promoted: Callable[[], None]
    ) -> None:
        super().__init__(open_trial)
        self._on_promoted = on_promoted

    async def promote(self) -> None:
        """Make the handler that of the step, as `Step.replace` does; the canary's worker becomes one of the step's.

        Raises:
            StartError: A further worker could not be started. All workers are those from before the canary.
            NotRunningError: The canary has ended, or the flow was stopped meanwhile.

        A cancellation undoes it, without waiting for that.
        """
        await self._opened().promote()
        self._on_promoted()


class Shadow(HandlerTrial[ShadowControl]):
    """A handler that gets copies of the tasks of a step; `Step.shadow` makes it.

    Iterate over it to compare the answers of both handlers::

        async for pair in shadow:
            if pair.candidate.label != pair.baseline.label: ...

    The iteration waits for further pairs, and ends when the shadow does. A pair is decoded when it is read. Those that
    are not read in time are dropped, the oldest first: when there are more than ``keep``, when they hold more than
    64 MiB of shared memory, or when the flow waits for memory.
    """

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TaskPair:
        pair = await self._opened().next_pair()
        if pair is None:
            raise StopAsyncIteration
        return pair
