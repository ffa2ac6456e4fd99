"""What a running job reports: written to the store as it comes, without a delay of the job."""

from __future__ import annotations

import asyncio
from collections import deque

from ..engine.wire.packing import pack_value
from ..exceptions import StoreError
from ..logger import log
from ..reports import Progress
from .changes import Changes
from .records import Record
from .store import Store

MAX_ITEMS = 10_000
"""The most items of a job that are kept; the oldest are dropped."""

MAX_BYTES = 16 << 20
"""The most bytes of them."""

MAX_AHEAD = 1000
"""The most reports that wait for the store, before the job waits for it."""


class Journal:
    """Writes the progress and the items of a job, together those that came while the store wrote the ones before.

    Args:
        store: The store.
        record: The job.
        changes: Gets the job when something was written.
    """

    def __init__(self, store: Store, record: Record, changes: Changes) -> None:
        self._store = store
        self._record = record
        self._changes = changes
        self._progress: Progress | None = None
        self._items: list[tuple[int, bytes | None]] = []
        self._kept: deque[tuple[int, int]] = deque()
        self._kept_bytes = 0
        self._last = record.past_items  # so that a client that knows an item gets those of the next attempt
        self._writing: asyncio.Task[None] | None = None

    async def put(self, item: object) -> None:
        """Write an item or a report of progress, soon."""
        if isinstance(item, Progress):
            self._progress = item
        else:
            self._keep(pack_value(item))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        elif len(self._items) >= MAX_AHEAD:
            await asyncio.wait([self._writing])

    async def end(self) -> None:
        """Wait until all is written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def _keep(self, content: bytes) -> None:
        self._last += 1
        self._items.append((self._last, content))
        self._kept.append((self._last, len(content)))
        self._kept_bytes += len(content)
        while len(self._kept) > MAX_ITEMS or (self._kept_bytes > MAX_BYTES and len(self._kept) > 1):
            number, size = self._kept.popleft()
            self._kept_bytes -= size
            self._items.append((number, None))

    async def _write(self) -> None:
        while self._items or self._progress is not None:
            items, self._items = self._items, []
            progress, self._progress = self._progress, None
            done, total = (None, None) if progress is None else (progress.done, progress.of)
            try:
                await self._store.note(self._record, done, total, items)
            except StoreError as exc:  # reports may be lost, and the job goes on
                log.warning("job %s: a report of it was lost: %s", self._record.id, str(exc))
            self._changes.note(self._record.id)
