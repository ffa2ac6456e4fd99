"""Wakes the calls that wait for a change of a job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Changes:
    """Events for the watched jobs.

    A watcher clears its event, reads the job, and waits for the event: so it misses no change.

    Args:
        announce: Called after each change here, for the calls that wait in other processes.

    Attributes:
        has_ended: Whether there are no more changes, because the server stops.
    """

    def __init__(self, announce: Callable[[], object] = lambda: None) -> None:
        self.has_ended = False
        self._announce = announce
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._queue_watchers: set[asyncio.Event] = set()

    @contextmanager
    def watch(self, job: str, with_queue: bool = False) -> Iterator[asyncio.Event]:
        """Watch a job.

        Args:
            job: Its id.
            with_queue: Whether to wake also when the queue moves.

        Yields:
            The event that a change sets.
        """
        event = asyncio.Event()
        watchers = self._watchers.setdefault(job, set())
        watchers.add(event)
        if with_queue:
            self._queue_watchers.add(event)
        try:
            yield event
        finally:
            self._queue_watchers.discard(event)
            watchers.discard(event)
            if not watchers and self._watchers.get(job) is watchers:
                del self._watchers[job]

    def note(self, job: str) -> None:
        """Note a change of a job."""
        for event in self._watchers.get(job, ()):
            event.set()
        self._announce()

    def note_queue(self) -> None:
        """Note that the queue has moved."""
        for event in self._queue_watchers:
            event.set()
        self._announce()

    def note_all(self) -> None:
        """Note that any job may have changed."""
        self.wake_all()
        self._announce()

    def wake_all(self) -> None:
        """Wake all calls that wait here: another process has changed the store."""
        for watchers in self._watchers.values():
            for event in watchers:
                event.set()

    def begin(self) -> None:
        """Begin anew, after an end."""
        self.has_ended = False

    def end(self) -> None:
        """End the watches: the server stops."""
        self.has_ended = True
        self.wake_all()
