"""Notices that a client has gone while a thread waits for its task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

ARM_DELAY = 0.05
"""Seconds before a request is listened to, and up to twice as many: most tasks are done by then, also where dozens wait
for each other, and listening is dear. That much work for a client that has gone is lost at most."""


class DistantWatch:
    """Cancels a call of a flow when the client goes away, and raises ``ClientDisconnect`` from it.

    For a call in another thread than that of the request, as that of a ``def`` endpoint. A request can be listened to
    in its own event loop only: what a server waits with, such as `asyncio.Event`, belongs to that loop.

    Args:
        receive: Of the request.
        home: The event loop that serves the request.
        cancel: Cancels the call, from any thread; None: the present asyncio task is cancelled.
    """

    def __init__(self, receive: Receive, home: asyncio.AbstractEventLoop, cancel: Callable[[], object] | None) -> None:
        self._receive = receive
        self._home = home
        self._cancel = cancel
        self._tell: Callable[[], object] = self._cancel_call
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._timer: asyncio.TimerHandle | None = None
        self._listener: asyncio.Task[None] | None = None
        self._has_gone = False
        self._is_over = False

    def __enter__(self) -> Self:
        if self._cancel is None:
            self._task = asyncio.current_task()
            assert self._task is not None
            self._cancelling = self._task.cancelling()
            self._tell = partial(asyncio.get_running_loop().call_soon_threadsafe, self._cancel_task, self._task)
        self._call_home(self._wait)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        self._call_home(self._stop)
        task, self._task = self._task, None
        # As in asyncio.timeout: a cancellation from elsewhere goes on.
        is_ours = self._has_gone and (task is None or task.uncancel() <= self._cancelling)
        if is_ours and exc_type is asyncio.CancelledError:
            raise ClientDisconnect from exc

    def _call_home(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended, and closed its event loop
            self._home.call_soon_threadsafe(function)

    # In the caller's thread

    def _cancel_task(self, task: asyncio.Task[object]) -> None:
        if not self._is_over:
            self._has_gone = True
            task.cancel()

    # In the thread of the request

    def _wait(self) -> None:
        if not self._is_over:
            self._timer = self._home.call_later(ARM_DELAY, self._arm)

    def _arm(self) -> None:
        self._listener = self._home.create_task(self._listen())

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None

    async def _listen(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception:
            # A limit on the body may be enforced in here, for a body that nobody wants to read.
            return
        with contextlib.suppress(RuntimeError):  # the event loop of the caller has ended
            self._tell()

    def _cancel_call(self) -> None:
        self._has_gone = True
        assert self._cancel is not None
        self._cancel()
