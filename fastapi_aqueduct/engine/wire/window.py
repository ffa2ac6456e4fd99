"""The window of a stream: how much a worker may send of it ahead of the consumer.

The worker stops by itself when the window is used up, and the API process grants what the consumer has taken, half a
window at a time. A frame that tells a worker to pause would come too late by all that fits into the buffers of the
socket, and by the time for which the event loop is busy with other code.
"""

from __future__ import annotations

from .codec import Encoded

WINDOW = 4 << 20
"""Weight of the items that may be on their way to the consumer, or wait for it."""

ITEM_WEIGHT = 16 << 10
"""Weight of an item beside its bytes: 256 small items fill a window."""

GRANT = WINDOW // 2
"""Weight of what the consumer has taken at which it is granted again."""


def item_weight(item: Encoded, task: Encoded) -> int:
    """Return what an item takes of its window. Both processes count the same.

    Args:
        item: The item.
        task: The task as it went to the worker. A slice of one of its fields holds no more memory than the task does.
    """
    weight = ITEM_WEIGHT + len(item.body)
    for ref in item.blocks:
        if ref not in task.blocks:
            weight += ref.size
    return weight


class Windows:
    """The windows of the streams that a worker has in hand.

    Attributes:
        paused: Ids of the tasks whose windows are used up.
    """

    def __init__(self) -> None:
        self.paused: set[int] = set()
        self._remaining: dict[int, int] = {}

    def spend(self, id: int, weight: int) -> None:
        """Note that an item of a task is sent; the last one of a window may be larger than what is left."""
        remaining = self._remaining[id] = self._remaining.get(id, WINDOW) - weight
        if remaining <= 0:
            self.paused.add(id)

    def grant(self, id: int, weight: int) -> None:
        """Note that the consumer of a task has taken items, perhaps of an earlier step."""
        if id in self._remaining:  # else the grant has crossed the answer
            remaining = self._remaining[id] = min(WINDOW, self._remaining[id] + weight)
            if remaining > 0:
                self.paused.discard(id)

    def close(self, id: int) -> None:
        """Forget a task that is answered."""
        self._remaining.pop(id, None)
        self.paused.discard(id)
