"""What a job says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from ..reports import Progress


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class JobStatus:
    """What is known of a job; the answer to a request for it.

    Attributes:
        id: Its id.
        state: Its state.
        created_at: When it was accepted.
        started_at: When it began to run, the last time; None while it is in the queue.
        finished_at: When it ended.
        expires_at: When it is forgotten; None before it has ended.
        progress: The last report of ``task.progress``.
        position: How many jobs of its flow are before it in the queue; None when it is not in the queue.
        expected_time: Seconds until it ends, from the durations of the last jobs and its own progress; None where there
            is nothing to tell from, and when it has ended.
        attempts: How often it has begun.
        error: Why it has failed.
    """

    id: str
    state: JobState
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    progress: Progress | None = None
    position: int | None = None
    expected_time: float | None = None
    attempts: int = 0
    error: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.finished_at is not None


class JobItem(NamedTuple):
    """An item that the handler of a job has yielded or emitted.

    Attributes:
        number: Its number, from 1. A job that runs again continues with the next number.
        value: The item.
    """

    number: int
    value: Any
