"""Ordinary endpoints that call functions in workers: errors become HTTP answers, and clients that leave end calls."""

from __future__ import annotations

from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from ...flow import caller_guard
from ..binding.uploads import body_bindings
from ..body.heap import Application
from ..disconnect import Caller, MessageClient
from ..errors import raise_http_error
from .endpoint import find_endpoint


def watch_routes(app: Starlette) -> None:
    """Watch the routes whose endpoints may call functions. Idempotent.

    Endpoints and dependencies of a flow do the same themselves.

    Args:
        app: The application.
    """
    for context in iter_route_contexts(app.routes):
        route: Any = context.original_route
        is_ordinary = find_endpoint(getattr(route, "endpoint", None)) is None and not any(body_bindings(route))
        if isinstance(route, Route) and is_ordinary and not isinstance(route.handle, CallingRoute):
            route.handle = CallingRoute(route.handle)  # type: ignore[method-assign]


class CallingRoute:
    """A route whose endpoint may call functions in workers.

    Args:
        application: Answers a request.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Its calls of functions are cancelled if the client leaves before the answer begins.

        Raises:
            HTTPException: A call has failed with an error of its flow, and no answer has begun.
        """
        client = MessageClient(scope, receive)
        caller = Caller(client)
        has_begun = False

        async def send_and_forget(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            caller.forget()  # what runs after the answer, such as background tasks, is not for the client
            await send(message)

        token = caller_guard.set(caller)
        try:
            await self._application(scope, client.receive_for_application, send_and_forget)
        except Exception as exc:
            if has_begun:
                raise
            raise_http_error(scope, exc)
        finally:
            caller.forget()
            caller_guard.reset(token)
