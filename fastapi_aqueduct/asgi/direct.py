"""What Starlette does around an endpoint, when nothing goes wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from .cork import corked
from .traceback import untangle


class Direct:
    """An application that sends what a function answers to a request.

    Starlette's ``request_response`` makes two functions, a coroutine and a wrapper around ``send`` for every request,
    so that it is there when an exception comes. Here it is asked when one has come: it has the application's handlers
    called, as ever. It also sends whatever is more than a body in memory.

    Args:
        answer: The function; what it returns may be any application.
    """

    def __init__(self, answer: Callable[[Request], Awaitable[ASGIApp]]) -> None:
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive, send)
        try:
            response = await self.answer(request)
            if not _is_simple(response):
                response = _handing(response)
        except Exception as exc:
            response = _handing(exc)
        try:
            with corked(response, scope, receive):
                await response(scope, receive, send)
        except Exception as exc:
            untangle(exc)
            raise
        finally:
            del response  # it may hold an exception, which refers to this frame


def _is_simple(response: ASGIApp) -> bool:
    return type(response).__call__ is Response.__call__ and response.background is None  # type: ignore[attr-defined]


def _handing(result: object) -> ASGIApp:
    held = [result]

    # Any: an answer may be any application, though Starlette only says so of a response.
    async def hand(_: Request) -> Any:
        # Taken out, and forgotten below: an exception refers to the frames it passes; as a cycle they would keep the
        # request and its task until the garbage collector comes.
        result = held.pop()
        try:
            if isinstance(result, Exception):
                raise result
            return result
        finally:
            del result

    return request_response(hand)
