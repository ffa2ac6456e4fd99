"""The outlet of a stream: keeps the items that have come until the consumer takes them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import ClassVar

from ..wire.codec import Encoded
from ..wire.frames import Status
from ..wire.window import WINDOW
from .ticket import Ticket

MOST = 16 * WINDOW
"""Weight of the items that wait at which a stream is ended: a handler that works on a batch cannot pause one of its
streams. 64 MiB, or 4096 small items."""


class Outlet:
    """Receives the items and the end of a task.

    Args:
        item_timeout: Seconds that may pass between two items.

    Attributes:
        item_timeout: As given.
        consumed: Weight of the items that the consumer has taken and that are not granted again to a worker.
        items: The items that wait for the consumer, with their weights; only methods of this class change them.
        has_items: Whether an item has come, so the task must not run again.
        arrived_at: When the last item came; 0 before.
        last_at: When the last item came, or later, when the consumer took the last one that had come.
    """

    def __init__(self, item_timeout: float) -> None:
        self.item_timeout = item_timeout
        self.consumed = 0
        self.has_items = False
        self.arrived_at = 0.0
        self.last_at = 0.0
        self.items: deque[tuple[Encoded, int]] = deque()
        self._weight = 0
        self._waiter: asyncio.Future[None] | None = None
        self._has_ended = False
        self._error: BaseException | None = None

    def __len__(self) -> int:
        """Return the number of items that wait for the consumer."""
        return len(self.items)

    @property
    def is_over(self) -> bool:
        """Whether the consumer is so far behind that the stream must end; not because of a single item."""
        return self._weight >= MOST and len(self.items) > 1

    def due_at(self, now: float) -> float:
        """Return when the next item must be there. The clock stands still while an item waits for the consumer."""
        return (now if self.items else self.last_at) + self.item_timeout

    def put(self, item: Encoded, weight: int, now: float) -> None:
        """Add an item.

        Args:
            item: The item.
            weight: What it takes of the window.
            now: The time on the clock of ``time.monotonic``.
        """
        self.items.append((item, weight))
        self._weight += weight
        self.has_items = True
        self.arrived_at = self.last_at = now
        if self._waiter is not None:
            self._wake()

    def pop(self, now: float) -> Encoded:
        """Remove and return the oldest item."""
        item, weight = self.items.popleft()
        self._weight -= weight
        self.consumed += weight
        self.last_at = now
        return item

    def pop_all(self) -> list[Encoded]:
        """Remove and return all items."""
        items = [item for item, _ in self.items]
        self.items.clear()
        self._weight = 0
        return items

    async def wait(self) -> None:
        """Wait until there is an item, or the end."""
        while not self.items and not self._has_ended:
            self._waiter = waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                self._waiter = None

    def pop_error(self) -> BaseException | None:
        """Remove and return why the stream has ended early."""
        error, self._error = self._error, None
        return error

    def done(self) -> bool:
        """Tell whether it has an end already."""
        return self._has_ended

    def set_result(self, result: None) -> None:
        """Receive that the task is done and filled in."""
        self._end(None)

    def set_exception(self, exception: BaseException) -> None:
        """Receive why the task has failed."""
        self._end(exception)

    def _end(self, error: BaseException | None) -> None:
        self._has_ended = True
        self._error = error
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None  # the next items find it awake
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class StreamTicket(Ticket):
    """A task whose caller wants its items."""

    __slots__ = ()
    status: ClassVar[int] = int(Status.STREAM)

    @property
    def outlet(self) -> Outlet | None:
        """Receives the items; None once the task is settled."""
        return self.receiver if isinstance(self.receiver, Outlet) else None

    @property
    def has_items(self) -> bool:
        """Whether an item has come."""
        outlet = self.outlet
        return outlet is not None and outlet.has_items

    def item_age(self, now: float) -> float | None:
        """Return the seconds since its last item, or since its consumer has caught up; None if there was none."""
        outlet = self.outlet
        return now - outlet.last_at if outlet is not None and outlet.has_items else None

    def postpone(self, seconds: float) -> None:
        """Move the deadline by a pause of the process, and that of the next item, which may be another one by now."""
        super().postpone(seconds)
        outlet = self.outlet
        if outlet is not None:
            outlet.last_at += seconds

    def is_late(self, now: float) -> bool:
        """Tell whether the next item, or the end, is overdue, and move the deadline if it is not."""
        outlet = self.outlet
        if outlet is not None and outlet.has_items:
            self.deadline = outlet.due_at(now)
        return now >= self.deadline
