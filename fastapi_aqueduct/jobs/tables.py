"""The tables of a store of jobs, in SQLite."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ..exceptions import StoreError

VERSION = 1
"""The version of the tables, in ``PRAGMA user_version``."""

_TABLES = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        flow TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        created_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        not_before REAL NOT NULL DEFAULT 0,
        done REAL,
        total REAL,
        past_items INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        key TEXT,
        fingerprint BLOB,
        task BLOB,
        result BLOB
    )
    """,
    "CREATE INDEX jobs_by_state ON jobs (state, flow, number)",
    "CREATE INDEX jobs_by_end ON jobs (finished_at) WHERE finished_at IS NOT NULL",
    "CREATE UNIQUE INDEX jobs_by_key ON jobs (endpoint, owner, key) WHERE key IS NOT NULL",
    """
    CREATE TABLE items (
        job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        content BLOB NOT NULL,
        PRIMARY KEY (job, number)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE ends (
        flow TEXT NOT NULL,
        state TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (flow, state)
    ) WITHOUT ROWID
    """,
    # They outlive the jobs, as counters must.
    """
    CREATE TRIGGER count_ends AFTER UPDATE OF finished_at ON jobs
    WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL
    BEGIN
        INSERT INTO ends VALUES (NEW.flow, NEW.state, 1)
        ON CONFLICT DO UPDATE SET count = count + 1;
    END
    """,
    f"PRAGMA user_version = {VERSION}",
)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a file that has none.

    Args:
        connection: A connection to the file.
        path: Its path, for messages.

    Raises:
        StoreError: Another release has made them.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in _TABLES:
            connection.execute(statement)
    elif version != VERSION:
        raise StoreError(
            f"the store of jobs {path} was made by another release of this package (version {version} of its "
            f"tables, and this release has {VERSION}): let that release finish its jobs, and remove the file"
        )
