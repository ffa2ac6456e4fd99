"""An ASGI function without a framework: what the server itself costs."""

from __future__ import annotations

import sys

from starlette.types import Receive, Scope, Send

from .serving import serve

ANSWER = b'{"value":7}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]


async def noop(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"  # uvicorn goes on without a lifespan
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


if __name__ == "__main__":
    serve(noop, int(sys.argv[2]))
