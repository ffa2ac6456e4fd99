"""Reads the board of a pipeline in an API process, and refuses tasks that have no chance there."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence

from ...step import FlowStep
from ...task import BaseTask
from ..refusals import Refusals
from ..scheduling.queue import level_of
from ..scheduling.verdicts import Absence, Verdicts, concerns
from ..tenants import Tenant
from ..timing import DEFAULT_TIMING
from .board import (
    ABSENT,
    CHECKSUM,
    IN_FLIGHT,
    IS_ASLEEP,
    VERSION,
    WAS_ASLEEP,
    Board,
    BoardFormat,
    Outlook,
    StepOutlook,
    digest_of,
)

ATTEMPTS = 100
"""Copies taken of a board that changes. The writer may be held up in the middle; what was read last counts then."""


class BoardReader:
    """Does in an API process what `Admission` does beside the queues.

    Args:
        fd: The descriptor of the board, which may be closed afterwards.
        flow: Name of the flow.
        steps: Its steps, each with its name, as this process has declared them.
        levels: Number of priority levels.
        queue_size: Tasks that may wait for a step, in each level.
        refusals: Counts the tasks that are refused.
        wake: Called with the index of a step that sleeps and has a task.
        silence: Seconds without a heartbeat after which the pipeline process hangs.
        limit: The most tasks of one tenant that may wait for the first step, in each level; None: no tenants share it.

    Raises:
        ProtocolError: The board is of another flow.
        OSError: It cannot be mapped.
    """

    def __init__(
        self,
        fd: int,
        flow: str,
        steps: Sequence[tuple[str, FlowStep]],
        levels: int,
        queue_size: int,
        refusals: Refusals,
        wake: Callable[[int], None],
        silence: float = DEFAULT_TIMING.silence,
        limit: int | None = None,
    ) -> None:
        self._format = BoardFormat(len(steps), levels, limit is not None)
        self._board = Board(fd, self._format)
        self._words = self._board.words
        self._steps = steps
        self._levels = levels
        self._queue_size = queue_size
        self._limit = limit
        self._verdicts = Verdicts(flow, refusals)
        self._wake = wake
        self._silence = silence
        self._version = -1
        self._outlook = Outlook(0.0, 0.0, (0,) * levels, (StepOutlook(0.0, 0),) * len(steps), (0.0,) * levels)
        self._absent: tuple[int, ...] = ()

    def check(self, priority: int, timeout: float, tenant: Tenant | None = None) -> None:
        """Refuse a task that would have to wait for a place, or would miss its deadline; see `Admission.check`.

        Args:
            priority: Its priority.
            timeout: Seconds it has.
            tenant: Whose it is; None where that does not matter, or is not known yet.

        Raises:
            StepUnavailable: A step has lost its workers.
            QueueFull: The queue of the first step is full.
            TenantOverShare: So is the share of the tenant.
            DeadlineUnreachable: At the measured rate it would take longer, or a step that sleeps needs longer to start.
        """
        self._read()
        if self._absent:
            self._check_absent(timeout, 0.0, None)
        if not self._words[IN_FLIGHT]:
            return
        outlook = self._outlook
        expected_time = outlook.expected_time
        if tenant is not None and self._limit is not None:
            expected_time = self._check_share(level_of(priority, self._levels), tenant, self._limit)
        if max(outlook.waiting) >= self._queue_size:
            waiting = outlook.waiting[level_of(priority, self._levels)]
            if waiting >= self._queue_size:
                raise self._verdicts.full(self._steps[0][0], waiting, expected_time)
        if expected_time > timeout:
            raise self._verdicts.late(expected_time, timeout)

    def check_workers(self, timeout: float, task: BaseTask) -> None:
        """Refuse a task that is about to be sent if a step will have no ready worker in time.

        Steps that sleep are woken if the task visits them; see `Admission.check_workers`.

        Args:
            timeout: Seconds that the task has.
            task: The task.

        Raises:
            DeadlineUnreachable: A step that sleeps or wakes needs longer to start. It is woken all the same.
            StepUnavailable: No worker is expected so soon in a step that has lost its own.
        """
        self._read()
        if self._absent:
            self._check_absent(timeout, timeout, task)

    def silent_for(self) -> float:
        """Return for how long the pipeline process has given no sign of life; 0 while that may be normal."""
        age: float = time.monotonic() - self._board.heartbeat[0]
        return age if age > self._silence else 0.0

    def close(self) -> None:
        """Release the board."""
        self._board.close()

    def _check_share(self, level: int, tenant: Tenant, limit: int) -> float:
        """Refuse a task of a tenant that has its share; return the seconds that a task of this tenant should take."""
        found = self._outlook.tenants.get(digest_of(level, tenant.name))
        if found is None:
            return self._outlook.newcomers[level]
        if found.waiting >= limit:
            raise self._verdicts.over_share(self._steps[0][0], found.waiting, found.expected_time)
        return found.expected_time

    def _check_absent(self, timeout: float, patience: float, task: BaseTask | None) -> None:
        elapsed = time.monotonic() - self._outlook.written_at
        self._verdicts.judge_absences(list(self._absences(elapsed, task)), timeout, patience)

    def _absences(self, elapsed: float, task: BaseTask | None) -> Iterator[Absence]:
        for index in self._absent:
            name, step = self._steps[index]
            wait, flags = self._outlook.steps[index]
            was_asleep = bool(flags & WAS_ASLEEP)
            if not concerns(step.handle_condition, was_asleep, task):
                continue
            if flags & IS_ASLEEP:
                self._wake(index)
            else:
                wait = max(0.1, wait - elapsed)
            yield Absence(name, wait, was_asleep)

    def _read(self) -> None:
        """Read what has changed."""
        words, content = self._words, self._board.content
        for _ in range(ATTEMPTS):
            version = words[VERSION]
            if version == self._version:
                return
            if version & 1:
                continue
            copy = bytes(content)
            if words[VERSION] == version and zlib.crc32(copy) == words[CHECKSUM]:
                self._version = version
                self._outlook = self._format.unpack(copy)
                steps = enumerate(self._outlook.steps)
                self._absent = tuple([index for index, step in steps if step.flags & ABSENT])
                return
