"""The wait for a stream before the head of its response is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from ...exceptions import TaskTimeout
from ..disconnect import DisconnectWatch
from ..shutdown import raise_for_shutdown


@asynccontextmanager
async def guarded_wait(request: Request, deadline: float | None) -> AsyncIterator[None]:
    """Bound what an endpoint does before its response.

    Args:
        request: The request, whose body has been read.
        deadline: When the context is cancelled, on the clock of the event loop; None: at no time.

    Raises:
        ClientDisconnect: The client left.
        TaskTimeout: The deadline has passed.
        NotRunningError: The server stops.
    """
    limit = asyncio.timeout_at(deadline)
    try:
        with DisconnectWatch(request.receive):
            async with limit:
                yield
    except TimeoutError as exc:
        if limit.expired():
            raise total_timeout() from exc
        raise
    except asyncio.CancelledError as exc:
        raise_for_shutdown(request.scope, exc)


def total_timeout() -> TaskTimeout:
    """Make the error of a stream that did not end in time."""
    return TaskTimeout("a stream did not end within its total_timeout")
