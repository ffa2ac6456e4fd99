"""Gives each request an id."""

import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from example_app.request_id import request_id

HEADER = "X-Request-ID"


class RequestIds:
    """Middleware that sets `request_id` to the id in the request's header, or to a new one, and adds it to the answer.

    It is no ``BaseHTTPMiddleware``, which would pass each piece of a stream through a queue.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or another event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        chosen = choose_id(Headers(scope=scope).get(HEADER, ""))
        request_id.set(chosen)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = chosen
            await send(message)

        await self._app(scope, receive, send_with_id)


def choose_id(wanted: str) -> str:
    """Return the id that the client has sent; a new one if that has characters that do not belong in a log."""
    return wanted if re.fullmatch(r"[\w.-]{1,64}", wanted, re.ASCII) else uuid4().hex
