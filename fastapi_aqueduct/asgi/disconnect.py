"""Notices that a client has gone while its task is in the flow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.types import Message, Receive

from ..exceptions import UsageError
from ..flow import caller_guard
from .distance import ARM_DELAY, DistantWatch


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

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._unarmed = _lookout_of(task.get_loop()).add(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unarmed.discard(self)
        if self._listener is not None:
            self._listener.cancel()
            # Its frame refers to this watch: as a cycle it would wait for the garbage collector, with the request.
            self._listener = None
        # As in asyncio.timeout: a cancellation from elsewhere, such as the end of the server, goes on.
        if self._has_gone and self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
            raise ClientDisconnect from exc

    def arm(self) -> None:
        """Begin to listen."""
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


class _Lookout:
    """Arms the watches of an event loop, with one timer for all: one each would cost more than all else here.

    Two generations: what is new at one tick is due at the next. Whoever is done by then has left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._new: set[DisconnectWatch] = set()
        self._due: set[DisconnectWatch] = set()
        self._is_ticking = False

    def add(self, watch: DisconnectWatch) -> set[DisconnectWatch]:
        """Take in a watch; it is armed soon unless it leaves the set that is returned."""
        self._new.add(watch)
        if not self._is_ticking:
            self._is_ticking = True
            self.loop.call_later(ARM_DELAY, self._tick)
        return self._new

    def _tick(self) -> None:
        due, self._due, self._new = self._due, self._new, set()
        for watch in due:
            watch.arm()
        self._is_ticking = bool(self._due)
        if self._is_ticking:
            self.loop.call_later(ARM_DELAY, self._tick)


# The last one asked for: there is hardly ever more than one event loop, and a second one is only dearer.
_lookout: _Lookout | None = None


def _lookout_of(loop: asyncio.AbstractEventLoop) -> _Lookout:
    global _lookout
    if _lookout is None or _lookout.loop is not loop:
        _lookout = _Lookout(loop)
    return _lookout


class Caller:
    """The client of a request whose endpoint calls `Flow.process` itself.

    Each call is watched, and nothing else: what the endpoint does beside it is not cancelled.

    Args:
        request: The request.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._home = asyncio.get_running_loop()
        self._is_waiting = True

    def __call__(self, cancel: Callable[[], object] | None) -> AbstractContextManager[object]:
        """Make the context in which a task is processed; see `Guard`."""
        if not (self._is_waiting and self._has_sent_all()):
            return nullcontext()
        if cancel is None and asyncio.get_running_loop() is self._home:
            return DisconnectWatch(self._receive)
        return DistantWatch(self._receive, self._home, cancel)

    def forget(self) -> None:
        """Stop watching: the endpoint has returned, and what it has left running is not for the client."""
        self._is_waiting = False

    async def _receive(self) -> Message:
        # Who asks for an empty body later must not wait for a message that was taken here: the request keeps it.
        if not getattr(self._request, "_stream_consumed", False):
            try:
                await self._request.body()
            except ClientDisconnect:  # it had gone before the first look
                return {"type": "http.disconnect"}
        message = await self._request.receive()
        if not self._is_waiting:
            raise UsageError("the answer was sent")
        return message

    def _has_sent_all(self) -> bool:
        # Somebody may still want to read the body, and would miss what a watch takes.
        if getattr(self._request, "_stream_consumed", False):
            return True
        headers = self._request.headers
        return headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers


def watch_caller(connection: HTTPConnection) -> None:
    """Have every `Flow.process` of an endpoint end when its client goes away; to be called by a dependency."""
    # FastAPI's own stack for what ends with the endpoint, before the answer is sent.
    stack = connection.scope.get("fastapi_function_astack")
    if not isinstance(connection, Request) or not isinstance(stack, AsyncExitStack) or caller_guard.get() is not None:
        return
    caller = Caller(connection)
    caller_guard.set(caller)
    stack.callback(caller.forget)
