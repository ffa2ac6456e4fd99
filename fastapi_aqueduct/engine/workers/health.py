"""The health of one worker's model, as the handler's `check` tells it."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable

from ...step import FlowStep
from ..system.fair_timer import FairTimer


class Health:
    """Asks a worker in intervals how its model is, and ends one that does not come back from that.

    A worker whose handler has a `check` has reported once before it was ready; others are never asked. It checks
    between two calls of the handler, so an answer may take as long as these do.

    Args:
        interval: Seconds from one answer to the next question.
        limit: Seconds that a check may take; None: no limit.
        begun_at: Returns when the check has begun that runs in the worker; 0 or less while none runs.
        ask: Asks the worker; tells whether it could be asked, which is not so before it is ready and when it leaves.
        end: Ends the worker, whose check has taken too long.

    Attributes:
        problem: What is wrong, in words; empty while nothing is.
    """

    def __init__(
        self,
        interval: float,
        limit: float | None,
        begun_at: Callable[[], float],
        ask: Callable[[], bool],
        end: Callable[[], None],
    ) -> None:
        self.problem = ""
        self._interval = interval
        self._limit = limit
        self._begun_at = begun_at
        self._ask = ask
        self._end = end
        self._has_reported = self._is_asked = False
        self._next: asyncio.TimerHandle | None = None
        self._limit_timer = FairTimer(self._check_limit)
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask from an event loop."""
        self._loop = loop
        self._go_on()

    def detach(self) -> None:
        """Ask no more; `attach` goes on."""
        self._loop = None
        self._limit_timer.cancel()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def note(self, problem: str) -> bool:
        """Note what a check has found.

        Args:
            problem: What is wrong; empty if nothing is.

        Returns:
            Whether the model was healthy before and is not any more, or the other way round.
        """
        has_changed = bool(problem) != bool(self.problem)
        self.problem = problem
        self._has_reported, self._is_asked = True, False
        self._limit_timer.cancel()
        self._go_on()
        return has_changed

    def _go_on(self) -> None:
        if self._loop is None or not self._has_reported:
            return
        if self._is_asked:
            self._limit_check(self._loop)
        elif self._next is None:
            self._next = self._loop.call_later(self._interval, self._ask_now)

    def _ask_now(self) -> None:
        self._next = None
        self._is_asked = self._ask()
        self._go_on()

    def _limit_check(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._limit is not None:
            begun_at = self._begun_at()
            passed = time.monotonic() - begun_at if begun_at > 0 else 0.0
            self._limit_timer.start(loop, max(self._limit - passed, 0.001))

    def _check_limit(self) -> None:
        # The check may have begun late, since the worker was in a call; how long that may take is `handle_timeout`.
        begun_at = self._begun_at()
        if self._limit is not None and begun_at > 0 and time.monotonic() - begun_at >= self._limit:
            self._end()
        elif self._loop is not None:
            self._limit_check(self._loop)


def limit_of(step: FlowStep) -> float | None:
    """Return the seconds after which a worker is ended that has not come back from its check; None: no limit.

    A check that is ``async def`` is cancelled in the worker after ``check_timeout``, unless it blocks the event loop.
    Such a worker has as long again to say so.
    """
    if step.check_timeout is None:
        return None
    return step.check_timeout * (2 if inspect.iscoroutinefunction(step.handler.check) else 1)
