"""Writes the board of a pipeline, in its process."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence

from ..route import Route
from ..scheduling.fair_queue import FairQueue
from ..scheduling.stage import Stage
from ..scheduling.ticket import Ticket
from .board import (
    ABSENT,
    CHECKSUM,
    IN_FLIGHT,
    IS_ASLEEP,
    MOST_TENANTS,
    VERSION,
    WAS_ASLEEP,
    Board,
    BoardFormat,
    Outlook,
    StepOutlook,
    TenantOutlook,
    create_board,
    digest_of,
)

HEARTBEAT_PERIOD = 1.0
"""Seconds between two heartbeats, also while nothing happens."""

PERIOD = 0.01
"""Seconds between two outlooks while tasks are in flight: a write costs about ten microseconds."""


class BoardWriter:
    """Keeps the board up to date.

    Args:
        flow: Name of the flow.
        stages: Its steps.
        route: The route of tasks through them.
        in_flight: Returns the number of tasks that are not settled.

    Attributes:
        fd: The descriptor of the board, which API processes get.

    Raises:
        OSError: No memory or no descriptor is left.
    """

    def __init__(self, flow: str, stages: Sequence[Stage], route: Route, in_flight: Callable[[], int]) -> None:
        self._stages = stages
        self._route = route
        self._levels = range(stages[0].queue.levels)
        self._in_flight = in_flight
        self._format = BoardFormat(len(stages), len(self._levels), stages[0].fair is not None)
        self.fd = create_board(flow, self._format)
        self._board = Board(self.fd, self._format, is_writable=True)
        self._words = self._board.words
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._write()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write from an event loop, until `detach`."""
        self._loop = loop
        self._beat()

    def detach(self) -> None:
        """Stop writing: from now on the heartbeat is old."""
        self._loop = None
        for handle in (self._timer, self._heartbeat, self._soon):
            if handle is not None:
                handle.cancel()
        self._timer = self._heartbeat = self._soon = None

    def note(self) -> None:
        """Note that tasks have come, or before answers are sent: it is read whether any are in flight."""
        in_flight = self._words[IN_FLIGHT] = self._in_flight()
        if in_flight and self._timer is None and self._loop is not None:
            self._write()
            self._timer = self._loop.call_later(PERIOD, self._go_on)

    def note_workers(self) -> None:
        """Note a change in the workers of a step. It is written when all that follows from it is decided."""
        if self._soon is None and self._loop is not None:
            self._soon = self._loop.call_soon(self._write_change)

    def close(self) -> None:
        """Release the board."""
        self.detach()
        self._board.close()

    def _beat(self) -> None:
        assert self._loop is not None
        self._heartbeat = self._loop.call_later(HEARTBEAT_PERIOD, self._beat)
        self._write()

    def _go_on(self) -> None:
        self._timer = None
        if self._in_flight():
            self.note()
        else:
            self._write()

    def _write_change(self) -> None:
        self._soon = None
        self._write()

    def _write(self) -> None:
        now = time.monotonic()
        words = self._words
        content = self._format.pack(self._outlook(now))
        words[VERSION] += 1
        self._board.content[:] = content
        words[CHECKSUM] = zlib.crc32(content)
        words[VERSION] += 1
        words[IN_FLIGHT] = self._in_flight()
        self._board.heartbeat[0] = now

    def _outlook(self, now: float) -> Outlook:
        first = self._stages[0]
        queues = [self._stages[step].queue for step in self._route.first]
        expected_time = self._route.expected_time([stage.expected_time() for stage in self._stages])
        outlook = Outlook(
            now,
            expected_time,
            tuple([max([queue.waiting(level) for queue in queues]) for level in self._levels]),
            tuple([_outlook_of(stage, now) for stage in self._stages]),
        )
        return outlook if first.fair is None else self._with_tenants(outlook, first, first.fair)

    def _with_tenants(self, outlook: Outlook, first: Stage, queue: FairQueue[Ticket]) -> Outlook:
        later = outlook.expected_time - first.expected_time()
        newcomers = [later + first.expected_time(queue.calls_before(level, b"", 1.0)) for level in self._levels]
        tenants = {}
        for level, name, weight, waiting in queue.busiest(MOST_TENANTS):
            digest = digest_of(level, name)
            expected_time = later + first.expected_time(queue.calls_before(level, name, weight))
            tenants[digest] = TenantOutlook(digest, waiting, expected_time)
        return outlook._replace(newcomers=tuple(newcomers), tenants=tenants)


def _outlook_of(stage: Stage, now: float) -> StepOutlook:
    pool = stage.pool
    if pool.ready_workers():
        return _READY
    is_asleep = pool.is_asleep
    flags = ABSENT | (WAS_ASLEEP if is_asleep or pool.is_waking else 0) | (IS_ASLEEP if is_asleep else 0)
    return StepOutlook(pool.expected_wait(now), flags)


_READY = StepOutlook(0.0, 0)
