"""The callers that wait for a place in the queue of a step, in the order of their arrival."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque

from ..wait import Wait
from .deadlines import Deadlines
from .queue import BatchQueue
from .ticket import Ticket


class _Caller:
    """A caller that waits.

    Attributes:
        turn: Whether the caller has got a place, once that is known; None when the waiting was closed.
    """

    def __init__(self, id: int, level: int, deadline: float, turn: asyncio.Future[bool | None]) -> None:
        self.id = id
        self.level = level
        self.deadline = deadline
        self.turn = turn
        self.period: dict[int, _Caller]

    def postpone(self, seconds: float) -> None:
        """Move the deadline by a pause of the process."""
        self.deadline += seconds


class Waiters:
    """The callers that wait for a place in one queue.

    A place that has become free is promised to the caller that has waited longest. It enters a turn of the event loop
    later; no other caller gets the place meanwhile.

    Args:
        queue: The queue.
        size: Tasks that may wait in each level of it.

    Attributes:
        contenders: How many callers wait, or were woken and have not entered.
    """

    def __init__(self, queue: BatchQueue[Ticket], size: int) -> None:
        self.contenders = 0
        self._queue = queue
        self._size = size
        self._callers: list[deque[_Caller]] = [deque() for _ in range(queue.levels)]
        self._promised = [0] * queue.levels
        self._opening: asyncio.Handle | None = None
        self._deadlines = Deadlines(self._on_expired)
        self._ids = itertools.count()

    def has_place(self, level: int) -> bool:
        """Tell whether a task may enter now, without passing a caller that waits."""
        return not self._callers[level] and self._queue.waiting(level) + self._promised[level] < self._size

    def wait(self, level: int, deadline: float) -> Wait[bool | None]:
        """Wait for a place, which the caller must take before anything else runs.

        Args:
            level: Level of the queue.
            deadline: On the clock of ``time.monotonic``.

        Returns:
            Whether there was one in time; None when the flow has stopped or works in another event loop.
        """
        loop = asyncio.get_running_loop()
        caller = _Caller(next(self._ids), level, deadline, loop.create_future())
        self._callers[level].append(caller)
        self._deadlines.add(caller, loop)
        self.contenders += 1
        promised = self._promised
        try:
            yield caller.turn
        except BaseException:  # cancelled, or closed together with its event loop
            self._give_up(caller, promised)
            raise
        finally:
            self.contenders -= 1
        if promised is not self._promised:
            return None
        has_place = caller.turn.result()
        if has_place:
            promised[level] -= 1
            # The place may stay free: an idle worker gets the task at once, or the task cannot be pickled. One look is
            # enough for all callers that enter in this turn.
            if self._opening is None:
                self._opening = loop.call_soon(self.open)
        return has_place

    def open(self) -> None:
        """Promise the places that are free."""
        self._opening = None
        for level, callers in enumerate(self._callers):
            while callers and self._queue.waiting(level) + self._promised[level] < self._size:
                self._promise(level)

    def close(self) -> None:
        """Wake every caller without a place: the flow has stopped, or works in another event loop."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        for callers in self._callers:
            while callers:
                turn = callers.popleft().turn
                if not turn.done() and not turn.get_loop().is_closed():
                    turn.set_result(None)
        # A new list: callers with a promised place that have not entered see that they cannot any more.
        self._promised = [0] * len(self._promised)
        self._deadlines.clear()

    def _promise(self, level: int) -> None:
        caller = self._callers[level].popleft()
        self._deadlines.remove(caller)
        if not caller.turn.done() and not caller.turn.get_loop().is_closed():
            self._promised[level] += 1
            caller.turn.set_result(True)

    def _give_up(self, caller: _Caller, promised: list[int]) -> None:
        if caller.turn.done() and not caller.turn.cancelled():
            if caller.turn.result() and promised is self._promised:
                promised[caller.level] -= 1
                self.open()
            return
        self._deadlines.remove(caller)
        if caller in self._callers[caller.level]:
            self._callers[caller.level].remove(caller)

    def _on_expired(self, caller: _Caller) -> None:
        if not caller.turn.done():
            self._callers[caller.level].remove(caller)
            caller.turn.set_result(False)
