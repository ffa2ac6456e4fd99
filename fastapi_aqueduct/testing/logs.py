"""Gives the log records of workers that are threads the attributes that those of worker processes have."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..engine.child.current import current_ids
from ..engine.child.task_context import TaskContext
from ..worker import find_worker_info

_context: ContextVar[TaskContext | None] = ContextVar("fastapi_aqueduct.testing.context", default=None)
"""The context variables of the flow. Not by the present thread: what a handler runs in another one, as with
``asyncio.to_thread``, belongs to the worker."""

_lock = threading.Lock()
_workers = 0
_handle = logging.Logger.handle


@contextmanager
def records_of_worker(variables: Sequence[ContextVar[Any]]) -> Iterator[None]:
    """Add the attributes to the log records of the present thread, and of what it calls in other threads.

    Args:
        variables: The context variables of the flow.
    """
    token = _context.set(TaskContext(variables))
    _add_worker(1)
    try:
        yield
    finally:
        _add_worker(-1)
        _context.reset(token)


def _add_worker(count: int) -> None:
    """Replace ``logging.Logger.handle`` while there are workers.

    A record factory cannot add the attributes: `logging` refuses an ``extra`` with the name of an existing one.
    """
    global _workers, _handle
    with _lock:
        if not _workers:
            _handle = logging.Logger.handle
            logging.Logger.handle = _handle_record  # type: ignore[method-assign,assignment]
        _workers += count
        if not _workers:
            logging.Logger.handle = _handle  # type: ignore[method-assign]


def _handle_record(logger: logging.Logger, record: logging.LogRecord) -> None:
    context, info = _context.get(), find_worker_info()
    if context is not None and info is not None:
        attributes = record.__dict__
        for name, value in (
            *(("flow", info.flow), ("step", info.step), ("worker", info.index), ("pid", info.pid)),
            *(("device_id", info.device_id), ("worker_version", info.version), ("task_id", current_ids())),
        ):
            attributes.setdefault(name, value)
        for name, value in context.values().items():
            attributes.setdefault(name, value)
    _handle(logger, record)
