"""Cancels a task of a flow when the client of its request goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.types import Message, Receive, Scope

from ..exceptions import UsageError
from ..flow import caller_guard
from . import gunicorn

ARM_DELAY = 0.05
"""Seconds before a watch begins to listen, and up to twice as many. Most tasks are done by then, also where dozens wait
for each other, and listening is expensive. At most that much work is done for a client that has gone."""


class DisconnectWatch:
    """Cancels its body when the client goes away, and raises ``ClientDisconnect`` from it.

    Enter it when the body of the request has been read: the listener consumes every message that still comes.

    Args:
        receive: Of the request. To listen on it also works under ``BaseHTTPMiddleware``, where
            ``Request.is_disconnected`` never turns true.
        at_once: Whether to listen from the beginning: for a body that takes long, and works on until it is cancelled.
            It must be the last watch of its request; `gunicorn` says why.
    """

    def __init__(self, receive: Receive, at_once: bool = False) -> None:
        self._receive = receive
        self._at_once = at_once
        self._listener: asyncio.Task[None] | None = None
        self._unarmed: set[DisconnectWatch] = set()
        self._has_gone = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._at_once:
            self.arm()
        else:
            self._unarmed = _timer_of(task.get_loop()).add(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unarmed.discard(self)
        if self._listener is not None:
            self._listener.cancel()
            # Its frame refers to this watch: the cycle would keep the request until garbage is collected.
            self._listener = None
        # As in asyncio.timeout: a cancellation from elsewhere, such as the end of the server, is passed on.
        if self._has_gone and self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
            raise ClientDisconnect from exc

    def arm(self) -> None:
        """Begin to listen."""
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        if (self._at_once or not gunicorn.is_server()) and await _disconnected(self._receive):
            self._has_gone = True
            self._task.cancel()


class ThreadDisconnectWatch:
    """A `DisconnectWatch` for a call in another thread than that of the request, such as that of a ``def`` endpoint.

    Only the event loop of the request can listen: what a server waits with, such as `asyncio.Event`, belongs to it.

    Args:
        receive: Of the request.
        loop: The event loop that serves the request.
        cancel: Cancels the call, from any thread; None: the current asyncio task is cancelled.
    """

    def __init__(self, receive: Receive, loop: asyncio.AbstractEventLoop, cancel: Callable[[], object] | None) -> None:
        self._receive = receive
        self._loop = loop
        self._cancel = cancel
        self._on_disconnect: Callable[[], object] = self._cancel_call
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
            own_loop = asyncio.get_running_loop()
            self._on_disconnect = partial(own_loop.call_soon_threadsafe, self._cancel_task, self._task)
        self._call_in_loop(self._start)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        self._call_in_loop(self._stop)
        task, self._task = self._task, None
        # As in asyncio.timeout: a cancellation from elsewhere is passed on.
        is_ours = self._has_gone and (task is None or task.uncancel() <= self._cancelling)
        if is_ours and exc_type is asyncio.CancelledError:
            raise ClientDisconnect from exc

    def _call_in_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended, and its event loop is closed
            self._loop.call_soon_threadsafe(function)

    # In the thread of the call

    def _cancel_task(self, task: asyncio.Task[object]) -> None:
        if not self._is_over:
            self._has_gone = True
            task.cancel()

    # In the thread of the request

    def _start(self) -> None:
        if not self._is_over:
            self._timer = self._loop.call_later(ARM_DELAY, self._arm)

    def _arm(self) -> None:
        self._listener = self._loop.create_task(self._listen())

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None

    async def _listen(self) -> None:
        if not gunicorn.is_server() and await _disconnected(self._receive):
            with contextlib.suppress(RuntimeError):  # the event loop of the call is closed
                self._on_disconnect()

    def _cancel_call(self) -> None:
        self._has_gone = True
        assert self._cancel is not None
        self._cancel()


async def _disconnected(receive: Receive) -> bool:
    """Wait until the client goes away; return False when ``receive`` fails before."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except Exception:
        # A limit on the body may be enforced in here, for a body that is never read.
        return False
    return True


class _ArmTimer:
    """Arms the watches of an event loop with one timer for all of them: one for each would dominate their cost.

    It has two generations: a watch that is new at one tick is armed at the next, unless it has ended before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._new: set[DisconnectWatch] = set()
        self._due: set[DisconnectWatch] = set()
        self._is_ticking = False

    def add(self, watch: DisconnectWatch) -> set[DisconnectWatch]:
        """Add a watch, and return the set that it leaves when it ends before it is armed."""
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


# That of the last event loop: a second loop is rare, and only costs more.
_timer: _ArmTimer | None = None


def _timer_of(loop: asyncio.AbstractEventLoop) -> _ArmTimer:
    global _timer
    if _timer is None or _timer.loop is not loop:
        _timer = _ArmTimer(loop)
    return _timer


class Client(Protocol):
    """The client of a request, as a `Caller` sees it."""

    def has_sent_all(self) -> bool:
        """Return whether the body is complete, so that a listener consumes nothing of it."""

    async def listen(self) -> Message:
        """Receive a message, and keep it for code that reads an empty body later."""


class Caller:
    """The client of a request whose endpoint calls `Flow.process` itself.

    Each call is watched, and nothing else: what the endpoint does beside it is not cancelled.

    Args:
        client: The client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._is_waiting = True

    def __call__(self, cancel: Callable[[], object] | None) -> AbstractContextManager[object]:
        """Return the context in which a task is processed; see `Guard`."""
        if not (self._is_waiting and self._client.has_sent_all()):
            return nullcontext()
        if cancel is None and asyncio.get_running_loop() is self._loop:
            return DisconnectWatch(self._receive)
        return ThreadDisconnectWatch(self._receive, self._loop, cancel)

    def forget(self) -> None:
        """Stop watching: the endpoint has returned, and tasks that it leaves running are not for the client."""
        self._is_waiting = False

    async def _receive(self) -> Message:
        message = await self._client.listen()
        if not self._is_waiting:
            raise UsageError("the answer was sent")
        return message


class RequestClient:
    """The client of a request whose body is read through its ``Request`` object.

    Args:
        request: The request.
    """

    def __init__(self, request: Request) -> None:
        self._request = request

    def has_sent_all(self) -> bool:
        """Return whether the body was read, or is empty; see `Client`."""
        # Other code may still read the body, and would miss what a watch consumes.
        return getattr(self._request, "_stream_consumed", False) or is_empty(self._request.scope)

    async def listen(self) -> Message:
        """Receive a message; see `Client`."""
        # Code that reads an empty body later must not wait for a message that was consumed here: the request keeps it.
        if not getattr(self._request, "_stream_consumed", False):
            try:
                await self._request.body()
            except ClientDisconnect:  # the client left before the watch was armed
                return {"type": "http.disconnect"}
        return await self._request.receive()


class MessageClient:
    """The client of a request whose ASGI messages pass through this object, in place of a ``Request``.

    Args:
        scope: Of the request.
        receive: The server's.

    Attributes:
        receive: As given; `transport_of` looks through it.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.receive = receive
        self._scope = scope
        self._kept: Message | None = None
        self._is_complete = False

    def has_sent_all(self) -> bool:
        """Return whether the application has received the whole body, or it is empty; see `Client`."""
        return self._is_complete or is_empty(self._scope)

    async def listen(self) -> Message:
        """Receive a message; see `Client`."""
        self._kept = await self.receive()
        return self._kept

    async def receive_for_application(self) -> Message:
        """Receive the next message, as an application does from the server."""
        message, self._kept = self._kept, None
        if message is None:
            message = await self.receive()
        self._is_complete = not message.get("more_body", False)
        return message


def is_empty(scope: Scope) -> bool:
    """Return whether a request has no body."""
    headers = Headers(scope=scope)
    return headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers


def watch_caller(connection: HTTPConnection) -> None:
    """Cancel every `Flow.process` of an endpoint when its client goes away; for dependencies to call."""
    # FastAPI's own stack for what ends with the endpoint, before the answer is sent.
    stack = connection.scope.get("fastapi_function_astack")
    if not isinstance(connection, Request) or not isinstance(stack, AsyncExitStack) or caller_guard.get() is not None:
        return
    caller = Caller(RequestClient(connection))
    caller_guard.set(caller)
    stack.callback(caller.forget)
