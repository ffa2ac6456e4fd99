"""Forwards what user code in a worker logs to the API process, whose levels, filters and handlers decide about it."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from ..wire.frames import Kind, pack_offsets
from ..wire.log_levels import LogLevels
from ..wire.log_records import Warned, address_record, pack_record
from ..wire.worker_channel import WorkerChannel
from .current import current_ids, current_numbers

MAX_DEPTH = 2
"""Records that a thread may pack at once: the ``__str__`` of an argument may log, with itself as an argument."""

FALLBACK_FORMAT = "%(levelname)s:%(name)s:%(message)s (pid %(process)d)"
"""The format of records that cannot be forwarded and for which no handler is configured."""


class LogForwarder:
    """Forwards log records, warnings and uncaught exceptions of threads.

    It replaces ``logging.Logger.handle``, so it gets every record once, whatever handlers user code configures while it
    is imported; these are not called. A handler on the root logger would miss the records of loggers that do not
    propagate, and ``dictConfig`` would remove it.

    In a fork of the worker, and when the API process has ended, records go to the handlers of this process, or to
    stderr if there are none.

    Args:
        channel: The worker's end of the channel.
        left_out: The name of a logger whose records, and those of loggers below it, go to the handlers of this process.

    Attributes:
        context: Returns the values of the context variables that travel with tasks, by their names.
    """

    def __init__(self, channel: WorkerChannel, left_out: str = "") -> None:
        self._channel = channel
        self._left_out = left_out
        self.context: Callable[[], dict[str, Any]] = dict
        self._levels: LogLevels
        self._dropped = 0
        self._packing = threading.local()
        self._is_active = False
        self._handle = logging.Logger.handle
        self._show_warning = warnings.showwarning

    def start(self, levels: LogLevels) -> None:
        """Forward from now on.

        Args:
            levels: The levels of the API process.
        """
        self._levels = levels
        self._is_active = True
        self._channel.on_space = self._report_dropped

        def handle(logger: logging.Logger, record: logging.LogRecord) -> None:
            self._handle_record(logger, record)

        logging.Logger.handle = handle  # type: ignore[method-assign,assignment]
        warnings.showwarning = self._forward_warning
        threading.excepthook = _log_thread_exception
        os.register_at_fork(after_in_child=self.fall_back)
        self.restore_levels()

    def restore_levels(self) -> None:
        """Give the loggers the levels of the API process, whatever the modules of the user have set."""
        self._levels.apply()

    def change_levels(self, payload: bytes) -> None:
        """Set the levels that have changed in the API process.

        Args:
            payload: That of a frame of kind LEVELS.
        """
        levels = LogLevels.unpack(payload)
        levels.apply_changes(self._levels)
        self._levels = levels

    def finish(self, timeout: float) -> None:
        """Send the records that wait, for ``timeout`` seconds at most, at the end of the worker."""
        if self._is_active:
            self._channel.finish_posts(timeout)
            self._report_dropped()

    def fall_back(self) -> None:
        """Forward nothing any more."""
        if not self._is_active:
            return
        self._is_active = False
        logging.Logger.handle = self._handle  # type: ignore[method-assign]
        warnings.showwarning = self._show_warning
        threading.excepthook = threading.__excepthook__
        # Not a handler of the root logger: a record that another handler has written would come twice.
        logging.lastResort = logging.StreamHandler(sys.stderr)
        logging.lastResort.setFormatter(logging.Formatter(FALLBACK_FORMAT))

    def _handle_record(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        """Do what ``logging.Logger.handle`` does, but forward the record instead of calling handlers."""
        if logger.disabled:
            return
        passed: Any = logger.filter(record)
        if not passed:
            return
        if isinstance(passed, logging.LogRecord):  # since Python 3.12 a filter may replace it
            record = passed
        is_left_out = self._left_out and record.name.partition(".")[0] == self._left_out
        if is_left_out or not self._forward(record):
            logger.callHandlers(record)

    def _forward_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        """Do what ``warnings.showwarning`` does, but let the API process decide how it is shown."""
        if file is None:
            text = warnings.formatwarning(message, category, filename, lineno, line)
            record = logging.getLogRecordFactory()(
                "py.warnings", logging.WARNING, filename, lineno, text, (), None, None, None
            )
            module, name = category.__module__, category.__qualname__
            if self._forward(record, Warned(str(message), module, name, filename, lineno, line)):
                return
        self._show_warning(message, category, filename, lineno, file, line)

    def _forward(self, record: logging.LogRecord, warning: Warned | None = None) -> bool:
        """Send a record to the API process, unless too many wait; tell whether there is an API process."""
        packing = self._packing
        depth = getattr(packing, "depth", 0)
        if depth >= MAX_DEPTH:
            self._dropped += 1
            return True
        packing.depth = depth + 1
        try:
            packed = pack_record(record, current_ids(), self.context(), warning)
            payload = address_record(current_numbers(), packed)
        except Exception:
            self._dropped += 1
            return True
        finally:
            packing.depth = depth
        try:
            if self._dropped:
                self._report_dropped()
            if not self._channel.post(Kind.LOG, payload):
                self._dropped += 1
        except OSError:
            self.fall_back()
            return False
        return True

    def _report_dropped(self) -> None:
        count = self._dropped
        if count and self._channel.post(Kind.DROPPED, pack_offsets([count])):
            self._dropped -= count


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    # Not the logger of the package, which a configuration may have disabled with all loggers that exist.
    logger = logging.getLogger(threading.__name__)
    if args.exc_type is SystemExit or not logger.isEnabledFor(logging.ERROR):
        threading.__excepthook__(args)
        return
    name = threading.get_ident() if args.thread is None else args.thread.name
    error: Any = (args.exc_type, args.exc_value, args.exc_traceback)
    logger.error("exception in thread %s", name, exc_info=error)
