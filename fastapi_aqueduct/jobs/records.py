"""A job as its store has it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from ..reports import Progress
from .options import JobOptions
from .status import JobState, JobStatus


class NewJob(NamedTuple):
    """A job that is to be accepted.

    Attributes:
        id: Its id.
        flow: Name of its flow.
        endpoint: Name of the function that accepts it; empty for one that code submits.
        owner: Whose it is; empty: it has none.
        task: Its packed task, without what is in its file.
        key: The Idempotency-Key of its request.
        fingerprint: A digest of its request, which a request with the same key must have too.
    """

    id: str
    flow: str
    endpoint: str
    owner: str
    task: bytes
    key: str | None = None
    fingerprint: bytes | None = None


class Record(NamedTuple):
    """A job in the store. The times are those of ``time.time``.

    Attributes:
        number: Its place in the order of arrival.
        id: Its id.
        flow: Name of its flow.
        endpoint: As of `NewJob`.
        owner: As of `NewJob`.
        state: Its state.
        attempts: How often it has begun.
        created_at: When it was accepted.
        started_at: When it began, the last time.
        finished_at: When it ended.
        done: Of its last report of progress.
        total: Of its last report of progress.
        past_items: The number of the last item of its attempts before.
        error: Why it has failed.
    """

    number: int
    id: str
    flow: str
    endpoint: str
    owner: str
    state: str
    attempts: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    done: float | None
    total: float | None
    past_items: int
    error: str | None

    @property
    def progress(self) -> Progress | None:
        """The last report of progress."""
        return None if self.done is None or self.total is None else Progress(self.done, self.total)


COLUMNS = ", ".join(Record._fields)
"""The columns of a record, for a SELECT."""


class Outlook(NamedTuple):
    """What a job has to expect.

    Attributes:
        position: How many jobs of its flow are before it in the queue; None when it is not in the queue.
        duration: Seconds that the last jobs of its flow took; None where there were none.
    """

    position: int | None
    duration: float | None


def status_of(record: Record, outlook: Outlook, options: JobOptions, slots: int, now: float) -> JobStatus:
    """Return what is known of a job.

    Args:
        record: The job.
        outlook: What it has to expect.
        options: For how long it is kept.
        slots: How many jobs run in its flow at the same time.
        now: The present time.
    """
    return JobStatus(
        id=record.id,
        state=JobState(record.state),
        created_at=_time(record.created_at),
        started_at=None if record.started_at is None else _time(record.started_at),
        finished_at=None if record.finished_at is None else _time(record.finished_at),
        expires_at=None if record.finished_at is None else _time(record.finished_at + options.keep_for),
        progress=record.progress,
        position=outlook.position,
        expected_time=_expected_time(record, outlook, slots, now),
        attempts=record.attempts,
        error=record.error,
    )


def _expected_time(record: Record, outlook: Outlook, slots: int, now: float) -> float | None:
    if outlook.position is not None:
        return None if outlook.duration is None else outlook.duration * (outlook.position // slots + 1)
    if record.state != JobState.RUNNING or record.started_at is None:
        return None
    elapsed = max(0.0, now - record.started_at)
    if record.done and record.total:
        return elapsed * max(0.0, record.total - record.done) / record.done
    return None if outlook.duration is None else max(0.0, outlook.duration - elapsed)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
