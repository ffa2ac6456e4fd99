"""Where callers wait, in the order they came, until the queue of a step has a place for them."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from .batching import BatchQueue
from .record import Record


class Entry:
    """The door to one queue.

    A place that has become free is promised to the caller who waits longest. He comes in a turn of the event loop
    later, and nobody takes his place meanwhile.

    Args:
        queue: The queue behind the door.
        size: Tasks that may wait in each level of it.

    Attributes:
        contenders: How many callers wait, or were woken and have not come in.
    """

    def __init__(self, queue: BatchQueue[Record], size: int) -> None:
        self.contenders = 0
        self._queue = queue
        self._size = size
        self._callers: list[deque[asyncio.Future[None]]] = [deque() for _ in range(queue.levels)]
        self._promised = [0] * queue.levels

    def has_place(self, level: int) -> bool:
        """Tell whether a task may come in now, overtaking nobody."""
        return not self._callers[level] and self._queue.waiting(level) + self._promised[level] < self._size

    async def wait(self, level: int, deadline: float) -> bool:
        """Wait for a place, which the caller must take before anything else runs.

        Args:
            level: Level of the queue.
            deadline: On the clock of ``time.monotonic``.

        Returns:
            Whether there was one in time.
        """
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        callers = self._callers[level]
        callers.append(turn)
        self.contenders += 1
        timer = loop.call_later(deadline - time.monotonic(), turn.cancel)
        try:
            await asyncio.wait([turn])
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._promised[level] -= 1
                self.open()
            raise
        finally:
            timer.cancel()
            self.contenders -= 1
            if turn in callers:
                callers.remove(turn)
        if turn.cancelled():
            return False
        self._promised[level] -= 1
        return True

    def open(self) -> None:
        """Promise the places that are free."""
        for level, callers in enumerate(self._callers):
            while callers and self._queue.waiting(level) + self._promised[level] < self._size:
                self._let_in(level)

    def close(self) -> None:
        """Let everybody go on: the flow has stopped, which they will see."""
        for level, callers in enumerate(self._callers):
            while callers:
                self._let_in(level)

    def _let_in(self, level: int) -> None:
        turn = self._callers[level].popleft()
        if not turn.done() and not turn.get_loop().is_closed():
            self._promised[level] += 1
            turn.set_result(None)
