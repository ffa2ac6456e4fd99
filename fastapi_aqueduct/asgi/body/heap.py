"""Bodies that go to the heap, JSON above all, under the guards of uploads.

FastAPI reads such a body itself, before it asks anything else of an endpoint. So the guards stand where the messages
arrive: `GuardedReceive.receive_guarded` takes the place of the server's ``receive``.
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
from ..errors import BodyTooLarge, refusal
from ..settings import settings_of
from ..shutdown import raise_for_shutdown
from .limits import BodyRules, announced_size
from .pace import Pace

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application, or the method of a route that is called like one."""

Steps = Generator[Any, Any, Message]
"""A message that is waited for, as the event loop sees it: each step yields what must happen before the next."""


class HeapGuard:
    """Guards the bodies of one endpoint.

    Args:
        rules: What the endpoint takes.
        flow: Counts the bodies among its uploads; None: the only flow of the application.
    """

    def __init__(self, rules: BodyRules, flow: Flow | None) -> None:
        self.rules = rules
        self.flow = flow

    async def read(self, request: Request, length: bytes | None) -> bytes:
        """Return a body, as ``request.body()`` does.

        Args:
            request: Keeps the body.
            length: Its Content-Length, as it stands there.

        Raises:
            HTTPException: The body is refused: the answer, which FastAPI and Starlette pass on.
            ClientDisconnect: The client went away before all of it had come.
            RuntimeError: It has been read as a stream.
        """
        receive = request.receive
        is_guarded = isinstance(getattr(receive, "__self__", None), GuardedReceive)
        if is_guarded or hasattr(request, "_body") or getattr(request, "_stream_consumed", True):
            return await request.body()
        begun: Steps | None = None
        max_size = self.rules.max_size(request.scope)
        if length is None or (len(length) < 20 and length.isdigit() and int(length) <= max_size):
            # Most bodies are there at once, in one message. One step by hand tells, for less than a timer costs.
            begun = receive().__await__()
            try:
                waits_for = next(begun)
            except StopIteration as stop:
                message: Message = stop.value
                body: bytes | None = message.get("body")
                if body is not None and len(body) <= max_size and not message.get("more_body", False):
                    # Where Starlette looks when somebody asks again.
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

    A body that is not there at once is counted among the uploads of the flow until it is complete, and must keep up
    their pace.

    Args:
        guard: That of its endpoint.
        scope: Of the request.
        receive: The server's.
        begun: The first message, if it has been asked for.

    Attributes:
        receive: As given, where Starlette's limit on bodies has it, too.
    """

    def __init__(self, guard: HeapGuard, scope: Scope, receive: Receive, begun: Steps | None = None) -> None:
        self._guard = guard
        self._scope = scope
        self.receive = receive
        self._begun = begun
        self._max_size: int | None = None
        self._size = 0
        self._pace: Pace | None = None
        self._arrival: Arrival | None = None
        self._has_ended = False
        self._is_refused = False

    async def receive_guarded(self) -> Message:
        """Receive the next message, as an application does from the server; what follows the body is passed on.

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
        if self._size > self._max_size:
            raise self._too_large()
        if message.get("more_body", False):
            self._get_pace().note(self._size)
            self._expect()
            if more and self._arrival is not None and not self._arrival.take(more):
                await self._arrival.wait(more)
        else:
            self._end()
        return message

    async def _wait(self, steps: Steps, waits_for: Any) -> Message:
        with self._get_pace() as pace:
            try:
                self._expect()
            except AqueductError as exc:
                # Not raised here: what waits is to be cancelled in the way that it knows.
                pace.refuse(exc)
            arrival = self._arrival
            if arrival is None:
                return await _rest(steps, waits_for)
            arrival.on_abandon(pace.refuse)
            try:
                return await _rest(steps, waits_for)
            finally:
                arrival.on_abandon(None)

    def _judge_head(self) -> int:
        max_size = self._max_size = self._guard.rules.max_size(self._scope)
        size = announced_size(self._scope)
        # FastAPI's own limit is enforced by what is wrapped, with the answer that the application knows.
        if size is not None and size > max_size != self._scope.get("starlette.max_body_size"):
            raise self._too_large()
        return max_size

    def _get_pace(self) -> Pace:
        if self._pace is None:
            self._pace = Pace(self._guard.rules.limits_of(self._scope))
        return self._pace

    def _expect(self) -> None:
        flow = self._guard.flow or _only_flow(self._scope)
        if self._arrival is not None or flow is None:
            return
        rules = self._guard.rules
        size, cap = announced_size(self._scope), rules.limits_of(self._scope).cap
        # What is longer could wait for room, and would never get it.
        self._max_size = min(rules.max_size(self._scope), flow.memory_limit)
        if max(self._size, size or 0) > self._max_size:
            raise self._too_large()
        try:
            self._arrival = flow.expect(size, rules.max_size(self._scope), rules.wait, cap)
        except NotRunningError:
            return  # or not here: what the task needs of the flow is judged when the body has come
        # An endpoint may answer before it has read all.
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._end())

    def _end(self) -> None:
        self._has_ended = True
        if self._arrival is not None:
            self._arrival.close()
            self._arrival = None

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body may have at most {self._max_size} bytes.")


class Guarded:
    """An application that reads a body, with the guard before it.

    Args:
        guard: That of the endpoint.
        application: What reads the body.
    """

    def __init__(self, guard: HeapGuard, application: Application) -> None:
        self._guard = guard
        self._application = application

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""
        return self._application(scope, GuardedReceive(self._guard, scope, receive).receive_guarded, send)


@types.coroutine
def _rest(steps: Steps, waits_for: Any) -> Steps:
    """Await what has been begun by hand; ``yield from`` would not pass on what is thrown in at the first step."""
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
