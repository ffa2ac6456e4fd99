"""Notices that a client has gone while its task is in the flow."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

ARM_DELAY = 0.005
"""Seconds before somebody listens: most tasks are done by then, and the listener costs more than all else here."""


class DisconnectWatch:
    """Cancels what runs inside it when the client goes away, and raises ``ClientDisconnect`` from it.

    To be entered when the body has been read: the listener takes every message that still comes.

    Args:
        receive: Of the request. Listening on it is the way that also works under ``BaseHTTPMiddleware``,
            where ``Request.is_disconnected`` never turns true.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._listener: asyncio.Task[None] | None = None
        self._has_gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(ARM_DELAY, self._arm)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
        # As in asyncio.timeout: a cancellation from elsewhere, such as the end of the server, goes on.
        if self._has_gone and self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
            raise ClientDisconnect from exc

    def _arm(self) -> None:
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception:
            # A limit on the body may be enforced in here, for a body that nobody wants to read.
            return
        self._has_gone = True
        self._task.cancel()
