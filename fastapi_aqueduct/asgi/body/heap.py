"""The guards of uploads for bodies that go to the heap, JSON above all.

FastAPI reads such a body itself, before anything else of an endpoint. So the guards are in the messages:
`GuardedReceive.receive_guarded` replaces the server's ``receive``.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from ...exceptions import AqueductError, NotRunningError
from ...flow import Arrival, Flow
from ..errors import BodyError, refusal
from ..settings import settings_of
from ..shutdown import raise_for_shutdown
from .limits import BodyRules, announced_size, check_size
from .read_timeout import ReadTimeout

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application, or the method of a route that is called like one."""

Steps = Generator[Any, Any, Message]
"""The steps of awaiting a message, as the event loop sees them: each yields what must happen before the next."""


class HeapGuard:
    """Guards the bodies of one endpoint that go to the heap.

    Args:
        rules: What the endpoint accepts.
        flow: Counts the bodies among its uploads; None: the only flow of the application.
    """

    def __init__(self, rules: BodyRules, flow: Flow | None) -> None:
        self.rules = rules
        self.flow = flow

    async def read(self, request: Request, length: bytes | None) -> bytes:
        """Return a body, as ``request.body()`` does.

        Args:
            request: Keeps the body.
            length: Its Content-Length, undecoded.

        Raises:
            HTTPException: The body is refused: the answer, which FastAPI and Starlette pass on.
            ClientDisconnect: The client went away before all of the body had come.
            RuntimeError: The body was read as a stream.
        """
        receive = request.receive
        is_guarded = isinstance(getattr(receive, "__self__", None), GuardedReceive)
        if is_guarded or hasattr(request, "_body") or getattr(request, "_stream_consumed", True):
            return await request.body()
        begun: Steps | None = None
        max_size = self.rules.max_size(request.scope)
        if length is None or (len(length) < 20 and length.isdigit() and int(length) <= max_size):
            # Most bodies are complete in the first message, which is there at once. One step by hand finds that out and
            # costs less than a timer.
            begun = receive().__await__()
            try:
                waits_for = next(begun)
            except StopIteration as stop:
                message: Message = stop.value
                body: bytes | None = message.get("body")
                if body is not None and len(body) <= max_size and not message.get("more_body", False):
                    # Starlette returns these when the body is asked for again.
                    request._stream_consumed = True
                    request._body = body
                    return body
                begun = _done(message)
            else:
                begun = _rest(begun, waits_for)
        return await self._read_slowly(request, GuardedReceive(self, request.scope, receive, begun))

    async def _read_slowly(self, request: Request, guarded: GuardedReceive) -> bytes:
        message = await guarded.receive_guarded()
        pieces: list[bytes] = [message.get("body", b"")]
        while message.get("more_body"):
            message = await guarded.receive_guarded()
            pieces.append(message.get("body", b""))
        if message["type"] == "http.disconnect":
            request._is_disconnected = True
            raise ClientDisconnect
        request._stream_consumed = True
        body = request._body = b"".join(pieces)
        return body


class GuardedReceive:
    """Receives one body.

    A body that is not complete at once counts among the uploads of the flow until it is, and has the same limits of
    time.

    Args:
        guard: The guard of the endpoint.
        scope: Of the request.
        receive: The server's.
        begun: The first message, if it was asked for already.

    Attributes:
        receive: As given. Starlette's limit on bodies keeps it under the same name.
    """

    def __init__(self, guard: HeapGuard, scope: Scope, receive: Receive, begun: Steps | None = None) -> None:
        self._guard = guard
        self._scope = scope
        self.receive = receive
        self._begun = begun
        self._max_size: int | None = None
        self._size = 0
        self._timeout: ReadTimeout | None = None
        self._arrival: Arrival | None = None
        self._has_ended = False
        self._is_refused = False

    async def receive_guarded(self) -> Message:
        """Receive the next message, as an application does from the server. What follows the body is passed on.

        Raises:
            HTTPException: The body is refused: the answer, which FastAPI and Starlette pass on.
        """
        if self._has_ended:
            # Code that has caught the exception gets nothing more of a refused body.
            return {"type": "http.disconnect"} if self._is_refused else await self.receive()
        try:
            try:
                return await self._next()
            except asyncio.CancelledError as exc:
                raise_for_shutdown(self._scope, exc)
        except AqueductError as exc:
            self._is_refused = True
            self._end()
            flow = self._guard.flow or _only_flow(self._scope)
            if isinstance(exc, BodyError) and flow is not None:
                flow.refusals.count(exc)
            raise refusal(self._scope, exc) from exc
        except BaseException:
            self._end()
            raise

    async def _next(self) -> Message:
        if self._max_size is None:
            self._max_size = self._judge_head()
        begun, self._begun = self._begun, None
        steps = begun or self.receive().__await__()
        try:
            waits_for = next(steps)
        except StopIteration as stop:
            message: Message = stop.value
        else:
            message = await self._wait(steps, waits_for)
        more = len(message.get("body", b""))
        self._size += more
        check_size(self._size, self._max_size)
        if message.get("more_body", False):
            self._get_timeout().note(self._size)
            self._expect()
            if more and self._arrival is not None and not self._arrival.try_acquire(more):
                await self._arrival.acquire(more)
        else:
            self._end()
        return message

    async def _wait(self, steps: Steps, waits_for: Any) -> Message:
        with self._get_timeout() as timeout:
            try:
                self._expect()
            except AqueductError as exc:
                # Not raised here: the step that waits must end by a cancellation.
                timeout.refuse(exc)
            arrival = self._arrival
            if arrival is None:
                return await _rest(steps, waits_for)
            arrival.on_abandon(timeout.refuse)
            try:
                return await _rest(steps, waits_for)
            finally:
                arrival.on_abandon(None)

    def _judge_head(self) -> int:
        max_size, size = self._guard.rules.max_size(self._scope), announced_size(self._scope)
        # FastAPI's own limit is enforced in `receive`, with the answer that the application expects.
        if max_size != self._scope.get("starlette.max_body_size"):
            check_size(size, max_size)
        return max_size

    def _get_timeout(self) -> ReadTimeout:
        if self._timeout is None:
            self._timeout = ReadTimeout(self._guard.rules.limits_of(self._scope))
        return self._timeout

    def _expect(self) -> None:
        flow = self._guard.flow or _only_flow(self._scope)
        if self._arrival is not None or flow is None:
            return
        rules = self._guard.rules
        size, cap = announced_size(self._scope), rules.limits_of(self._scope).cap
        # A body that is larger than all memory would wait for it without effect.
        self._max_size = min(rules.max_size(self._scope), flow.memory_limit)
        check_size(max(self._size, size or 0), self._max_size)
        try:
            self._arrival = flow.expect(size, rules.max_size(self._scope), rules.wait(), cap)
        except NotRunningError:
            return  # or it runs in another process: the endpoint finds out when the body is complete
        # An endpoint may answer before it has read all of the body.
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._end())

    def _end(self) -> None:
        self._has_ended = True
        if self._arrival is not None:
            self._arrival.close()
            self._arrival = None


class Guarded:
    """An application that reads a body, behind the guard.

    Args:
        guard: The guard of the endpoint.
        application: Reads the body.
    """

    def __init__(self, guard: HeapGuard, application: Application) -> None:
        self._guard = guard
        self._application = application

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""
        return self._application(scope, GuardedReceive(self._guard, scope, receive).receive_guarded, send)


@types.coroutine
def _rest(steps: Steps, waits_for: Any) -> Steps:
    """Await the steps after the first, which was made by hand.

    ``yield from`` would not pass on an exception that is thrown in at the first of them.
    """
    try:
        while True:
            try:
                yield waits_for
            except BaseException as exc:
                waits_for = steps.throw(exc)
            else:
                waits_for = next(steps)
    except StopIteration as stop:
        message: Message = stop.value
        return message


@types.coroutine
def _done(message: Message) -> Steps:
    return message
    yield


def _only_flow(scope: Scope) -> Flow | None:
    settings = settings_of(scope)
    return settings.flows[0] if settings and len(settings.flows) == 1 else None
