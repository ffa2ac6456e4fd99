"""A real server in the event loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from fastapi_aqueduct import Aqueduct, Flow, flow_endpoint

from ..support import DEADLINE, engine_of, eventually
from .handlers import Picture


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, http: Any = "httptools", ws: Any = "none") -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application with uvicorn, through ``httptools``, ``h11`` or a class; gives a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=http, ws=ws, lifespan="on", log_config=None)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await eventually(lambda: server.started or task.done())
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            # Without certificates, which it would read for every test.
            async with httpx.AsyncClient(base_url=url, timeout=100, verify=False) as client:
                yield client
        finally:
            server.should_exit = True
            await task


def bare_client(app: ASGIApp, raise_app_exceptions: bool = True) -> httpx.AsyncClient:
    """Make a client of an application whose lifespan it does not run.

    Args:
        app: The application.
        raise_app_exceptions: Whether what it raises comes out of the client; else that is an answer with status 500.
    """
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def taken(flow: Flow) -> int:
    """Count the bytes of shared memory that the API process has allocated, also for bodies that are still coming.

    Reads the allocator: a body that is still coming has no hold, and the statistics count holds only.
    """
    engine = engine_of(flow)
    engine.memory.arena.collect()
    return engine.memory.arena.allocator.used


class Connection:
    """A client that sends what it likes and leaves when it likes."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._url = client.base_url

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(self._url.host, self._url.port)
        self.socket: socket.socket = self._writer.get_extra_info("socket")
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        self._writer.close()
        # The server may have reset it after its answer, while the client was still sending.
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def send(self, path: str, *headers: str, body: bytes = b"", method: str = "POST") -> None:
        """Send a request, or the beginning of one."""
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers]
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self._writer.drain()

    async def send_more(self, data: bytes) -> None:
        """Send more of the body."""
        self._writer.write(data)
        await self._writer.drain()

    async def read_head(self) -> str:
        """Read the status line and the headers of an answer."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), DEADLINE)
        return head.decode()

    async def read_body(self, size: int = -1) -> bytes:
        """Read ``size`` bytes of the body; without it, all that come until the server closes."""
        return await asyncio.wait_for(self._reader.read() if size < 0 else self._reader.readexactly(size), DEADLINE)


def total_application(flow: Flow, max_body_size: int | None = None) -> FastAPI:
    """Make an application with one endpoint, an upload to ``/total``."""
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/total")
    @flow_endpoint(flow, max_body_size=max_body_size)
    async def total(task: Picture) -> int:
        return task.total

    return app
