"""A client that runs the lifespan of an application, and calls it without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exceptions import UsageError

if TYPE_CHECKING:
    # mypy finds one of the two types; of the installed libraries this one is used.
    import httpx2 as httpx


@asynccontextmanager
async def client(app: ASGIApp, *, raise_app_exceptions: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """Run the lifespan of an application and yield a client that calls the application without a server.

    Needs httpx2 or httpx. Unlike Starlette's ``TestClient`` it sends a body in the chunks that it gets, and unlike
    ``ASGITransport`` alone it runs the lifespan, in a task of its own and without a time limit, and passes its state to
    the requests.

    Args:
        app: Any ASGI application.
        raise_app_exceptions: Whether an exception that the application does not handle is raised in the test;
            otherwise the response is 500.

    Yields:
        The client. Its base URL is ``http://testserver``.

    Raises:
        UsageError: Neither httpx2 nor httpx is installed, or the lifespan ended before it had started.
        Exception: An exception of the start of the application.

    Example:
            async with client(app) as http:
                response = await http.post("/ocr", content=picture)
    """
    library = _library()
    lifespan = _Lifespan(app)
    await lifespan.start()
    _running[id(app)] = lifespan
    try:
        transport = library.ASGITransport(lifespan.call, raise_app_exceptions=raise_app_exceptions)
        async with library.AsyncClient(transport=transport, base_url="http://testserver") as http:
            yield http
    finally:
        _running.pop(id(app), None)
        await lifespan.stop()


def application_of(app: ASGIApp) -> ASGIApp:
    """Return an application with the state of its lifespan, if that runs in `client`."""
    lifespan = _running.get(id(app))
    return app if lifespan is None else lifespan.call


class _Lifespan:
    """The lifespan of an application, in a task of its own as in a server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._state: dict[str, Any] = {}
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._has_started = asyncio.Event()
        self._task: asyncio.Task[None]

    async def start(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        self._inbox.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.create_task(self._app(scope, self._inbox.get, self._send))  # type: ignore[arg-type]
        started = asyncio.create_task(self._has_started.wait())
        try:
            await asyncio.wait([self._task, started], return_when=asyncio.FIRST_COMPLETED)
            if not self._has_started.is_set():
                await self._task
                raise UsageError("the lifespan of the application ended before its start was complete")
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        finally:
            started.cancel()

    async def stop(self) -> None:
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        await self._task

    async def call(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "state": self._state.copy()}, receive, send)

    async def _send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._has_started.set()


_running: dict[int, _Lifespan] = {}
"""The lifespans that run, by the ``id()`` of their applications."""


def _library() -> Any:
    # Starlette's own TestClient prefers httpx2.
    for name in ("httpx2", "httpx"):
        if find_spec(name) is not None:
            return import_module(name)
    raise UsageError("fastapi_aqueduct.testing.client needs httpx2 or httpx")
