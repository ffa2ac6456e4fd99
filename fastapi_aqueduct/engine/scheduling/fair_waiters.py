"""The callers that wait for a place in a queue that tenants share: each behind those of its tenant."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

from .fair_queue import FairQueue
from .ticket import Ticket
from .waiters import Waiters, WaitingCaller


class FairWaiters(Waiters):
    """The callers that wait for a place in one queue, which has places for each tenant.

    The tenants take turns for places that become free, so the callers of one do not hold up those of others.

    Args:
        queue: The queue.
        size: Tasks that may wait in each level of it.
    """

    def __init__(self, queue: FairQueue[Ticket], size: int) -> None:
        super().__init__(queue, size)
        self._shares = queue
        self._promised_of: Counter[tuple[int, bytes]] = Counter()
        self._lines: list[OrderedDict[bytes, deque[WaitingCaller]]] = [OrderedDict() for _ in range(queue.levels)]

    def has_place(self, level: int, tenant: bytes) -> bool:
        """Tell whether a task may enter now, without passing a caller of its tenant that waits."""
        return tenant not in self._lines[level] and self.has_room(level) and self._has_share(level, tenant)

    def close(self) -> None:
        """Wake every caller without a place: the flow has stopped, or works in another event loop."""
        super().close()
        self._promised_of.clear()

    def _has_share(self, level: int, tenant: bytes) -> bool:
        return self._shares.waiting_of(level, tenant) + self._promised_of[level, tenant] < self._shares.limit

    def _note_promise(self, caller: WaitingCaller, places: int) -> None:
        super()._note_promise(caller, places)
        key = caller.level, caller.tenant
        self._promised_of[key] += places
        if not self._promised_of[key]:
            del self._promised_of[key]

    def _join(self, caller: WaitingCaller) -> None:
        self._lines[caller.level].setdefault(caller.tenant, deque()).append(caller)

    def _leave(self, caller: WaitingCaller) -> None:
        lines = self._lines[caller.level]
        line = lines.get(caller.tenant)
        if line is None or caller not in line:
            return
        line.remove(caller)
        if not line:
            del lines[caller.tenant]

    def _next(self, level: int) -> WaitingCaller | None:
        if not self.has_room(level):
            return None
        lines = self._lines[level]
        for tenant, line in lines.items():
            if self._has_share(level, tenant):
                lines.move_to_end(tenant)
                return line[0]
        return None

    def _clear(self) -> list[WaitingCaller]:
        found = [caller for lines in self._lines for line in lines.values() for caller in line]
        for lines in self._lines:
            lines.clear()
        return found
