"""One connection to SQLite, in a thread of its own.

The file is in WAL mode, and what must not be lost is committed with ``synchronous=FULL``. With NORMAL, the usual
choice, a transaction that was committed may be rolled back after a loss of power; FULL adds a sync of the WAL after
each commit (https://www.sqlite.org/pragma.html#pragma_synchronous). A sync takes milliseconds, so the thread commits in
one transaction all that has come during the sync before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..exceptions import StoreError, StoreFull
from .private import check_private

T = TypeVar("T")

Statements = Callable[[sqlite3.Connection], T]
"""Runs statements, in the thread of the connection."""

BUSY_TIMEOUT = 30.0
"""Seconds to wait for another process that writes. SQLite has one writer at a time."""

MAX_BATCH = 256
"""The most calls in one transaction."""

_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""What SQLite reports on a full disk; the second one where the index of the WAL cannot grow."""


class Database:
    """Runs statements of SQLite for an event loop.

    Args:
        path: The path of the file, which is made with the mode 0600 if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection
        self._is_synchronized = False

    async def open(self, prepare: Statements[None]) -> None:
        """Open the file.

        Args:
            prepare: Runs first, in a transaction.

        Raises:
            StoreError: The file cannot be used.
        """
        # The files of the WAL get the permissions of this one (https://www.sqlite.org/wal.html).
        self._make_file()
        self._thread = threading.Thread(target=self._serve, name=f"aqueduct-{self._path.name}", daemon=True)
        self._thread.start()
        try:
            await self.run(prepare)
        except BaseException:
            await self.close()
            raise

    def _make_file(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                found = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError as exc:
            raise StoreError(f"the store of jobs {self._path} cannot be used: {exc}") from exc
        check_private(self._path, found)

    async def run(self, statements: Statements[T], is_durable: bool = True) -> T:
        """Run statements in a transaction, and wait until they are on the disk.

        Args:
            statements: The statements.
            is_durable: Whether they must survive a loss of power; what only reads, or reports, need not wait for that.

        A cancellation ends the wait, and not the transaction.

        Raises:
            StoreFull: The disk is full, and nothing was written.
            StoreError: The file cannot be used, or is closed.
            Exception: What the statements raise; nothing was written then.
        """
        if self._thread is None:
            raise StoreError(f"the store of jobs {self._path} is closed: the server stops")
        call: _Call = _Call(statements, asyncio.get_running_loop().create_future(), is_durable)
        self._calls.put(call)
        result: T = await call.future
        return result

    async def close(self) -> None:
        """Close the file, after the calls that were made. May be called more than once."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            await asyncio.to_thread(thread.join)

    # In the thread

    def _serve(self) -> None:
        try:
            self._connection = _connect(self._path)
            self._is_synchronized = False
        except sqlite3.Error as exc:
            self._refuse(exc)
            return
        try:
            while (calls := self._next()) is not None:
                _deliver(self._commit(calls))
        finally:
            self._connection.close()

    def _refuse(self, cause: sqlite3.Error) -> None:
        while (call := self._calls.get()) is not None:
            _deliver([_Outcome(call, None, self._error(cause))])

    def _next(self) -> list[_Call] | None:
        """Wait for a call; return it with those that have come, or None at the end."""
        call = self._calls.get()
        if call is None:
            return None
        calls = [call]
        with contextlib.suppress(queue.Empty):
            while len(calls) < MAX_BATCH and (call := self._calls.get_nowait()) is not None:
                calls.append(call)
        if call is None:
            self._calls.put(None)
        return calls

    def _commit(self, calls: list[_Call]) -> list[_Outcome]:
        connection = self._connection
        outcomes: list[_Outcome] = []
        try:
            self._synchronize(any(call.is_durable for call in calls))
            # A transaction that begins as a reader fails at once, without the timeout, when another process has
            # written before it writes itself (https://www.sqlite.org/rescode.html#busy_snapshot).
            connection.execute("BEGIN IMMEDIATE")
            outcomes += [self._call(call) for call in calls]
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            error = self._error(exc)
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            return [_Outcome(call, None, error) for call in calls]
        return outcomes

    def _synchronize(self, is_durable: bool) -> None:
        """Choose whether the next commit is synced; a synced one syncs those before it as well."""
        if is_durable is not self._is_synchronized:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
            self._is_synchronized = is_durable

    def _call(self, call: _Call) -> _Outcome:
        connection = self._connection
        connection.execute("SAVEPOINT call")
        try:
            result = call.statements(connection)
        except Exception as exc:
            # On some errors, such as a full disk, SQLite has rolled back the whole transaction
            # (https://www.sqlite.org/lang_transaction.html), and with it the calls before.
            if not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO call")
            connection.execute("RELEASE call")
            return _Outcome(call, None, self._error(exc) if isinstance(exc, sqlite3.Error) else exc)
        connection.execute("RELEASE call")
        return _Outcome(call, result, None)

    def _error(self, exc: sqlite3.Error) -> Exception:
        if getattr(exc, "sqlite_errorcode", None) in _FULL:
            return StoreFull(f"no space is left for the store of jobs {self._path}: {exc}")
        error = StoreError(f"the store of jobs {self._path} cannot be used: {exc}")
        error.__cause__ = exc
        return error


class _Call(NamedTuple):
    """A call from an event loop."""

    statements: Statements[Any]
    future: asyncio.Future[Any]
    is_durable: bool


class _Outcome(NamedTuple):
    """The end of a call."""

    call: _Call
    result: Any
    error: Exception | None

    def resolve(self) -> None:
        """Resolve the future, in its event loop."""
        if self.call.future.done():
            return
        if self.error is None:
            self.call.future.set_result(self.result)
        else:
            self.call.future.set_exception(self.error)


def _deliver(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            outcome.call.future.get_loop().call_soon_threadsafe(outcome.resolve)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise sqlite3.OperationalError(f"its file system allows no WAL (journal_mode is {mode})")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
    except BaseException:
        connection.close()
        raise
    return connection
