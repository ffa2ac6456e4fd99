"""A handler that is tried out beside the workers of a step, as its user drives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from ..reports import TaskPair
from .loops.owner import Owner
from .scheduling.canary import CanaryTraffic
from .scheduling.pairs import Pair
from .scheduling.shadow import ShadowTraffic
from .statistics import TrialReport
from .workers.changes import Changes
from .workers.trial import Trial

T = TypeVar("T", bound=CanaryTraffic | ShadowTraffic)
R = TypeVar("R")


class TrialControl(Protocol):
    """Drives a trial that has begun. It may be used in any event loop."""

    def report(self) -> TrialReport:
        """Return what both sides have done so far, or until the trial ended."""

    async def promote(self) -> None:
        """Replace the workers of the step by those of the handler; see `Changes.promote`."""

    async def close(self) -> None:
        """End the trial, and wait until its worker has gone; see `Trial.end`."""


class ShadowControl(TrialControl, Protocol):
    """Drives a trial with copies of tasks."""

    async def next_pair(self) -> TaskPair | None:
        """Return the oldest pair of answers, when there is one; None if the trial ends."""



class OpenTrial(Generic[T]):
    """A trial that has begun. It may be used in any event loop.

    Args:
        owner: Runs functions in the event loop that drives the engine.
        changes: Changes the workers.
        index: Index of the step.
        trial: The change of the step.
        traffic: What its worker gets.
    """

    def __init__(self, owner: Owner, changes: Changes, index: int, trial: Trial, traffic: T) -> None:
        self._owner = owner
        self._changes = changes
        self._index = index
        self._trial = trial
        self._traffic = traffic

    def report(self) -> TrialReport:
        """Return what both sides have done so far, or until the trial ended."""
        return self._traffic.report()

    async def promote(self) -> None:
        """Replace the workers of the step by those of the handler; see `Changes.promote`."""
        self._trial.check_open()
        await self._owner.run(partial(self._changes.promote, self._index, self._trial))

    async def close(self) -> None:
        """End the trial, and wait until its worker has gone; see `Trial.end`."""
        if self._trial.is_open:
            await self._owner.run(self._trial.end)

    async def next_pair(self: OpenTrial[ShadowTraffic]) -> TaskPair | None:
        """Return the oldest pair of answers, when there is one; None if the trial ends."""
        return await self._next(self._traffic.pop_pair)

    async def next_pair_with(self: OpenTrial[ShadowTraffic], read: Callable[[Pair], R]) -> R | None:
        """Return what a function makes of the oldest pair of answers, as `next_pair`.

        Args:
            read: Reads the pair, whose blocks are held until it returns.
        """
        return await self._next(lambda loop: self._traffic.pop_with(loop, read))

    async def _next(self, pop: Callable[[asyncio.AbstractEventLoop], Awaitable[R | None]]) -> R | None:
        pairs: list[R | None] = [None]

        async def run() -> None:
            pairs.append(await pop(asyncio.get_running_loop()))

        if self._trial.is_open:
            await self._owner.run(run)
        return pairs[-1]

    @property
    def is_open(self) -> bool:
        """Whether the trial has neither ended nor been promoted."""
        return self._trial.is_open
