"""Answers requests that the end of the server cuts off, which is no fault of the application."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from starlette.types import Scope

from ...exceptions import NotRunningError
from .limits import settings_of

_BY_UVICORN = "Task cancelled, timeout graceful shutdown exceeded"
"""What uvicorn says to the tasks of requests. It stops without a signal too: in a thread, or after so many requests."""


def raise_cutoff(scope: Scope, exc: asyncio.CancelledError) -> NoReturn:
    """Raise what a cancellation means for a request.

    Args:
        scope: Of the request.
        exc: The cancellation.

    Raises:
        NotRunningError: The server ends.
        CancelledError: The same: it comes from another place, such as a timeout around the endpoint, and goes on.
    """
    try:
        settings = settings_of(scope)
        if exc.args != (_BY_UVICORN,) and not (settings and settings.is_stopping):
            raise exc
        _go_on()
        raise NotRunningError("the server stopped before the request was complete") from exc
    finally:
        del exc  # its traceback has this frame


def _go_on() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()  # what sends the answer may await
