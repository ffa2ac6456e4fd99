"""Work that waits for a thread."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Backlog(Generic[T]):
    """Handles items one after the other in a thread, which exists while there are any.

    The thread does not hold up the end of the process.

    Args:
        handle: Called with each item. What it raises is printed.
        limit: The most items that may wait.
    """

    def __init__(self, handle: Callable[[T], None], limit: int) -> None:
        self._handle = handle
        self._limit = limit
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def is_full(self) -> bool:
        """Whether no item may be added."""
        return len(self._items) >= self._limit

    def put(self, item: T) -> None:
        """Add an item."""
        with self._changed:
            self._items.append(item)
            if self._thread is None or not self._thread.is_alive():  # it has not survived a fork
                self._thread = threading.Thread(target=self._run, name="aqueduct-recorder", daemon=True)
                self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Block until all items are handled.

        Args:
            timeout: Seconds that it may take.

        Returns:
            Whether all were handled in time.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout)

    def _run(self) -> None:
        while self._has_next():
            try:
                self._handle(self._items.popleft())  # without a name here: it is gone when it is handled
            except Exception:  # of a filter or a handler of log records
                traceback.print_exc()

    def _has_next(self) -> bool:
        with self._changed:
            if self._items:
                return True
            self._thread = None
            self._changed.notify_all()
            return False
