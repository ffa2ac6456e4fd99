"""The callers that wait for a place in the queue of a step, in the order of their arrival."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque

from ..wait import Wait
from .deadlines import Deadlines
from .queue import BatchQueue
from .ticket import Ticket


class WaitingCaller:
    """A caller that waits.

    Attributes:
        id: Its number.
        level: Level of the queue.
        tenant: Whose task it has; empty where that does not matter.
        deadline: On the clock of ``time.monotonic``.
        turn: Whether the caller has got a place, once that is known; None when the waiting was closed.
    """

    def __init__(
        self, id: int, level: int, tenant: bytes, deadline: float, turn: asyncio.Future[bool | None]
    ) -> None:
        self.id = id
        self.level = level
        self.tenant = tenant
        self.deadline = deadline
        self.turn = turn
        self.period: dict[int, WaitingCaller]

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
        self._callers: list[deque[WaitingCaller]] = [deque() for _ in range(queue.levels)]
        self._promised = [0] * queue.levels
        self._opening: asyncio.Handle | None = None
        self._deadlines = Deadlines(self._on_expired)
        self._ids = itertools.count()

    def has_place(self, level: int, tenant: bytes) -> bool:
        """Tell whether a task may enter now, without passing a caller that waits.

        Args:
            level: Level of the queue.
            tenant: Whose task it is.
        """
        return not self._callers[level] and self.has_room(level)

    def wait(self, level: int, tenant: bytes, deadline: float) -> Wait[bool | None]:
        """Wait for a place, which the caller must take before anything else runs.

        Args:
            level: Level of the queue.
            tenant: Whose task it is.
            deadline: On the clock of ``time.monotonic``.

        Returns:
            Whether there was one in time; None when the flow has stopped or works in another event loop.
        """
        loop = asyncio.get_running_loop()
        caller = WaitingCaller(next(self._ids), level, tenant, deadline, loop.create_future())
        self._join(caller)
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
            self._note_promise(caller, -1)
            # The place may stay free: an idle worker gets the task at once, or the task cannot be pickled. One look is
            # enough for all callers that enter in this turn.
            if self._opening is None:
                self._opening = loop.call_soon(self.open)
        return has_place

    def open(self) -> None:
        """Promise the places that are free."""
        self._opening = None
        for level in range(self._queue.levels):
            while (caller := self._next(level)) is not None:
                self._promise(caller)

    def close(self) -> None:
        """Wake every caller without a place: the flow has stopped, or works in another event loop."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        for caller in self._clear():
            turn = caller.turn
            if not turn.done() and not turn.get_loop().is_closed():
                turn.set_result(None)
        # A new list: callers with a promised place that have not entered see that they cannot any more.
        self._promised = [0] * len(self._promised)
        self._deadlines.clear()

    def _promise(self, caller: WaitingCaller) -> None:
        self._leave(caller)
        self._deadlines.remove(caller)
        if not caller.turn.done() and not caller.turn.get_loop().is_closed():
            self._note_promise(caller, 1)
            caller.turn.set_result(True)

    def _give_up(self, caller: WaitingCaller, promised: list[int]) -> None:
        if caller.turn.done() and not caller.turn.cancelled():
            if caller.turn.result() and promised is self._promised:
                self._note_promise(caller, -1)
                self.open()
            return
        self._deadlines.remove(caller)
        self._leave(caller)

    def _on_expired(self, caller: WaitingCaller) -> None:
        if not caller.turn.done():
            self._leave(caller)
            caller.turn.set_result(False)

    def has_room(self, level: int) -> bool:
        return self._queue.waiting(level) + self._promised[level] < self._size

    def _note_promise(self, caller: WaitingCaller, places: int) -> None:
        self._promised[caller.level] += places

    def _join(self, caller: WaitingCaller) -> None:
        """Add a caller behind the others."""
        self._callers[caller.level].append(caller)

    def _leave(self, caller: WaitingCaller) -> None:
        """Remove a caller, if it is there."""
        callers = self._callers[caller.level]
        if callers and callers[0] is caller:
            callers.popleft()
        elif caller in callers:
            callers.remove(caller)

    def _next(self, level: int) -> WaitingCaller | None:
        """Return the caller that should get a place in a level; None if no caller should."""
        callers = self._callers[level]
        return callers[0] if callers and self.has_room(level) else None

    def _clear(self) -> list[WaitingCaller]:
        """Remove and return all callers."""
        found = [caller for callers in self._callers for caller in callers]
        for callers in self._callers:
            callers.clear()
        return found
