"""The jobs of a store: what may happen to them, each in one transaction."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..exceptions import IdempotencyConflict, TooManyJobs
from .database import Database
from .records import COLUMNS, NewJob, Outlook, Record
from .statistics import JobStatistics
from .status import JobState
from .tables import prepare

MAX_DELAY = 60.0
"""The most seconds between two tries to run a job, or to write to a disk that is full."""

SAMPLE = 20
"""How many of the last jobs tell how long the next ones take."""

ENDED_AT_STOP = "the server stopped while it ran, and it may run once only (max_retries=0)"
DIED = "the process that ran it has died, and it has no retries left"

_PENDING = f"state IN ('{JobState.QUEUED}', '{JobState.RUNNING}')"


class Store:
    """Keeps jobs. Each method is one transaction, which is on the disk when the method returns; `note` need not be.

    Args:
        path: The path of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(path)

    async def open(self) -> None:
        """Open the file, and make the tables.

        Raises:
            StoreError: The file cannot be used, or a newer release has made it.
        """
        await self._database.open(lambda connection: prepare(connection, self._path))

    async def close(self) -> None:
        """Close the file."""
        await self._database.close()

    async def add(self, job: NewJob, most: int) -> tuple[Record, Outlook, bool]:
        """Accept a job, unless one with its key is there.

        Args:
            job: The job.
            most: The most jobs that may be pending.

        Returns:
            The job, or the one with its key; what it has to expect; and whether it is new.

        Raises:
            IdempotencyConflict: The job with its key is another one.
            TooManyJobs: There are too many.
        """

        def statements(connection: sqlite3.Connection) -> tuple[Record, Outlook, bool]:
            known = self._find_key(connection, job)
            if known is not None:
                return known, _outlook(connection, known), False
            (pending,) = connection.execute(f"SELECT count(*) FROM jobs WHERE {_PENDING}").fetchone()
            if pending >= most:
                raise TooManyJobs(f"{pending} jobs are pending (max_pending={most})")
            connection.execute(
                "INSERT INTO jobs (id, flow, endpoint, owner, state, created_at, key, fingerprint, task)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (job.id, job.flow, job.endpoint, job.owner, JobState.QUEUED, time.time(), job.key)
                + (job.fingerprint, job.task),
            )
            found = _select(connection, "id = ?", job.id)
            assert found is not None
            return found, _outlook(connection, found), True

        return await self._database.run(statements)

    @staticmethod
    def _find_key(connection: sqlite3.Connection, job: NewJob) -> Record | None:
        if job.key is None:
            return None
        place = (job.endpoint, job.owner, job.key)
        where = "endpoint = ? AND owner = ? AND key = ?"
        found = connection.execute(f"SELECT fingerprint FROM jobs WHERE {where}", place).fetchone()
        if found is None:
            return None
        if found[0] != job.fingerprint:
            raise IdempotencyConflict(f"another request has used the Idempotency-Key {job.key!r} already")
        return _select(connection, where, *place)

    async def count_pending(self) -> int:
        """Count the jobs that are in the queue or running."""
        return int(await self._value(f"SELECT count(*) FROM jobs WHERE {_PENDING}"))

    def statistics(self, flows: Iterable[str]) -> dict[str, JobStatistics]:
        """Count the jobs of flows, in the calling thread, over a connection of its own.

        Raises:
            sqlite3.Error: The file cannot be read.
        """
        found = {flow: JobStatistics.zero() for flow in flows}
        with contextlib.closing(sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            pending = connection.execute(
                f"SELECT flow, state, count(*), ? - min(created_at) FROM jobs WHERE {_PENDING} GROUP BY flow, state",
                (time.time(),),
            ).fetchall()
            ended = connection.execute("SELECT flow, state, count FROM ends").fetchall()
        for flow, state, count, age in pending:
            if flow in found:
                found[flow].pending[state] = count
                found[flow] = found[flow]._replace(oldest_age=max(found[flow].oldest_age, age))
        for flow, state, count in ended:
            if flow in found:
                found[flow].ended[state] = count
        return found

    async def find(self, job: str) -> tuple[Record, Outlook] | None:
        """Return a job, and what it has to expect; None if there is none."""

        def statements(connection: sqlite3.Connection) -> tuple[Record, Outlook] | None:
            record = _select(connection, "id = ?", job)
            return None if record is None else (record, _outlook(connection, record))

        return await self._database.run(statements, is_durable=False)

    async def result(self, job: str) -> bytes | None:
        """Return the packed result of a job; None if it has none."""
        value: bytes | None = await self._value("SELECT result FROM jobs WHERE id = ?", job)
        return value

    async def items(self, number: int, after: int, most: int) -> list[tuple[int, bytes]]:
        """Return the packed items of a job that follow an item, with their numbers."""

        def statements(connection: sqlite3.Connection) -> list[tuple[int, bytes]]:
            return connection.execute(
                "SELECT number, content FROM items WHERE job = ? AND number > ? ORDER BY number LIMIT ?",
                (number, after, most),
            ).fetchall()

        return await self._database.run(statements, is_durable=False)

    async def claim(self, flow: str) -> tuple[Record, bytes] | None:
        """Begin the next job of a flow: return it with its packed task; None if there is none."""

        def statements(connection: sqlite3.Connection) -> tuple[Record, bytes] | None:
            now = time.time()
            # A time that is farther away than any delay was noted before the clock was set back.
            found = connection.execute(
                "SELECT number, task FROM jobs WHERE state = ? AND flow = ? AND (not_before <= ? OR not_before > ?)"
                " ORDER BY number LIMIT 1",
                (JobState.QUEUED, flow, now, now + MAX_DELAY),
            ).fetchone()
            if found is None:
                return None
            number, task = found
            connection.execute(
                "UPDATE jobs SET state = ?, attempts = attempts + 1, started_at = ?, done = NULL, total = NULL,"
                " past_items = max(past_items, (SELECT coalesce(max(number), 0) FROM items WHERE job = jobs.number))"
                " WHERE number = ?",
                (JobState.RUNNING, now, number),
            )
            connection.execute("DELETE FROM items WHERE job = ?", (number,))
            record = _select(connection, "number = ?", number)
            assert record is not None
            return record, task

        return await self._database.run(statements)

    async def next_start(self, flow: str) -> float | None:
        """Return when the next job of a flow may begin that waits for its time; None if none waits."""
        value: float | None = await self._value(
            "SELECT min(not_before) FROM jobs WHERE state = ? AND flow = ?", JobState.QUEUED, flow
        )
        return value

    async def note(self, record: Record, done: float | None, total: float | None, items: Sequence[Any]) -> None:
        """Note the progress of a running job, and its new items.

        Args:
            record: The job.
            done: Of its last report of progress; None: unchanged.
            total: Of its last report of progress.
            items: The numbers of the items, and the packed items; None in place of one that is dropped.
        """

        def statements(connection: sqlite3.Connection) -> None:
            if done is not None:
                connection.execute(
                    "UPDATE jobs SET done = ?, total = ? WHERE number = ? AND state = ? AND attempts = ?",
                    (done, total, record.number, JobState.RUNNING, record.attempts),
                )
            for number, content in items:
                if content is None:
                    connection.execute("DELETE FROM items WHERE job = ? AND number = ?", (record.number, number))
                else:
                    connection.execute(
                        "INSERT OR IGNORE INTO items SELECT number, ?, ? FROM jobs WHERE number = ? AND state = ?",
                        (number, content, record.number, JobState.RUNNING),
                    )

        await self._database.run(statements, is_durable=False)

    async def finish(self, record: Record, state: JobState, result: bytes | None, error: str | None) -> bool:
        """End a running job; return False if it has been cancelled meanwhile."""
        return await self._change(
            "state = ?, finished_at = ?, result = ?, error = ?, task = NULL",
            (state, time.time(), result, error),
            "number = ? AND state = ? AND attempts = ?",
            (record.number, JobState.RUNNING, record.attempts),
        )

    async def put_back(self, record: Record, delay: float, counts: bool) -> bool:
        """Put a running job back into the queue, at its place; return False if it has been cancelled meanwhile.

        Args:
            record: The job.
            delay: Seconds before it may begin again, at most `MAX_DELAY`.
            counts: Whether the attempt counts.
        """
        return await self._change(
            "state = ?, started_at = NULL, done = NULL, total = NULL, not_before = ?, attempts = attempts - ?",
            (JobState.QUEUED, time.time() + min(delay, MAX_DELAY), 0 if counts else 1),
            "number = ? AND state = ? AND attempts = ?",
            (record.number, JobState.RUNNING, record.attempts),
        )

    async def cancel(self, job: str) -> bool:
        """Cancel a job that is in the queue or running; return False if it is neither."""
        return await self._change(
            "state = ?, finished_at = ?, task = NULL",
            (JobState.CANCELLED, time.time()),
            f"id = ? AND {_PENDING}",
            (job,),
        )

    async def remove(self, job: str) -> None:
        """Remove a job that has ended."""

        def statements(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM jobs WHERE id = ? AND finished_at IS NOT NULL", (job,))

        await self._database.run(statements)

    async def recover(self, max_retries: int) -> tuple[int, int]:
        """Put the jobs that a process has left running back into the queue, or fail those without a retry.

        Returns:
            How many are in the queue now, and how many have failed.
        """

        def statements(connection: sqlite3.Connection) -> tuple[int, int]:
            failed = connection.execute(
                "UPDATE jobs SET state = ?, finished_at = ?, error = ?, task = NULL WHERE state = ? AND attempts > ?",
                (JobState.FAILED, time.time(), DIED, JobState.RUNNING, max_retries),
            ).rowcount
            connection.execute(
                "UPDATE jobs SET state = ?, started_at = NULL, done = NULL, total = NULL WHERE state = ?",
                (JobState.QUEUED, JobState.RUNNING),
            )
            (queued,) = connection.execute("SELECT count(*) FROM jobs WHERE state = ?", (JobState.QUEUED,)).fetchone()
            return queued, failed

        return await self._database.run(statements)

    async def release(self, max_retries: int) -> None:
        """Put the jobs that run back into the queue at a graceful stop, which is no fault of theirs."""

        def statements(connection: sqlite3.Connection) -> None:
            if max_retries == 0:
                connection.execute(
                    "UPDATE jobs SET state = ?, finished_at = ?, error = ?, task = NULL WHERE state = ?",
                    (JobState.FAILED, time.time(), ENDED_AT_STOP, JobState.RUNNING),
                )
            connection.execute(
                "UPDATE jobs SET state = ?, started_at = NULL, done = NULL, total = NULL, attempts = attempts - 1"
                " WHERE state = ?",
                (JobState.QUEUED, JobState.RUNNING),
            )

        await self._database.run(statements)

    async def refuse_others(self, flows: Sequence[str]) -> int:
        """Fail the jobs of flows that the application does not have any more; return how many there were."""
        names = ", ".join("?" * len(flows))

        def statements(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "UPDATE jobs SET state = ?, finished_at = ?, task = NULL,"
                " error = 'its flow ' || flow || ' is none of this application'"
                f" WHERE {_PENDING} AND flow NOT IN ({names})",
                (JobState.FAILED, time.time(), *flows),
            ).rowcount

        return await self._database.run(statements)

    async def expire(self, before: float) -> list[str]:
        """Remove the jobs that ended before a time; return their ids."""

        def statements(connection: sqlite3.Connection) -> list[str]:
            # After the clock was set back, the time of their end lies in the future.
            now = time.time()
            connection.execute("UPDATE jobs SET finished_at = ? WHERE finished_at > ?", (now, now))
            found = connection.execute("SELECT id FROM jobs WHERE finished_at <= ?", (before,)).fetchall()
            connection.execute("DELETE FROM jobs WHERE finished_at <= ?", (before,))
            return [job for (job,) in found]

        return await self._database.run(statements)

    async def first_end(self) -> float | None:
        """Return when the first of the jobs that have ended did so; None if none has."""
        value: float | None = await self._value("SELECT min(finished_at) FROM jobs WHERE finished_at IS NOT NULL")
        return value

    async def missing(self, jobs: Sequence[str]) -> list[str]:
        """Return which of these jobs do not exist."""

        def statements(connection: sqlite3.Connection) -> list[str]:
            return [job for job in jobs if _select(connection, "id = ?", job) is None]

        return await self._database.run(statements, is_durable=False)

    async def _value(self, statement: str, *parameters: Any) -> Any:
        def statements(connection: sqlite3.Connection) -> Any:
            row = connection.execute(statement, parameters).fetchone()
            return None if row is None else row[0]

        return await self._database.run(statements, is_durable=False)

    async def _change(self, change: str, values: tuple[Any, ...], where: str, place: tuple[Any, ...]) -> bool:
        def statements(connection: sqlite3.Connection) -> bool:
            return connection.execute(f"UPDATE jobs SET {change} WHERE {where}", (*values, *place)).rowcount > 0

        return await self._database.run(statements)


def _select(connection: sqlite3.Connection, where: str, *parameters: Any) -> Record | None:
    row = connection.execute(f"SELECT {COLUMNS} FROM jobs WHERE {where}", parameters).fetchone()
    return None if row is None else Record(*row)


def _outlook(connection: sqlite3.Connection, record: Record) -> Outlook:
    if record.finished_at is not None:
        return Outlook(None, None)
    (duration,) = connection.execute(
        "SELECT avg(max(0, finished_at - started_at)) FROM (SELECT started_at, finished_at FROM jobs"
        " WHERE finished_at IS NOT NULL AND flow = ? AND state = ? ORDER BY finished_at DESC LIMIT ?)",
        (record.flow, JobState.COMPLETED, SAMPLE),
    ).fetchone()
    position = None
    if record.state == JobState.QUEUED:
        (position,) = connection.execute(
            "SELECT count(*) FROM jobs WHERE state = ? AND flow = ? AND number < ?",
            (JobState.QUEUED, record.flow, record.number),
        ).fetchone()
    return Outlook(position, duration)
