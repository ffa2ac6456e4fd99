"""Answers requests that the server cancels when it stops: 503 instead of 500."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from starlette.types import Scope

from ..exceptions import NotRunningError
from .settings import settings_of
from .uvicorn import is_shutdown


def raise_for_shutdown(scope: Scope, exc: asyncio.CancelledError) -> NoReturn:
    """Raise what the cancellation of a request means.

    Args:
        scope: Of the request.
        exc: The cancellation.

    Raises:
        NotRunningError: The server stops. The task of the request is no longer cancelled, so it can send the answer.
        CancelledError: ``exc``: it has another cause, such as a timeout around the endpoint.
    """
    try:
        settings = settings_of(scope)
        if not is_shutdown(exc) and not (settings and settings.is_stopping):
            raise exc
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        raise NotRunningError("the server stopped before the request was complete") from exc
    finally:
        del exc  # its traceback refers to this frame
