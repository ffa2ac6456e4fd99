"""A body on its way from the server's parser to shared memory, in one process and without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fastapi_aqueduct.asgi.body.guards import Guards
from fastapi_aqueduct.asgi.body.limits import DEFAULT_LIMITS
from fastapi_aqueduct.asgi.body.parts import UploadPart
from fastapi_aqueduct.asgi.body.raw import RawBody
from fastapi_aqueduct.asgi.body.read_timeout import ReadTimeout
from fastapi_aqueduct.asgi.body.stream import stream_body
from fastapi_aqueduct.engine.memory.block_writer import BlockWriter
from fastapi_aqueduct.engine.memory.flow_memory import FlowMemory
from fastapi_aqueduct.engine.memory.layout import Layout
from fastapi_aqueduct.engine.memory.mapping import Mapping, create_memory

from .inprocess import MEMORY_LIMIT

SIZE = 1 << 20
PIECE = 64 << 10
"""Bytes that the server reads at once."""

PART = UploadPart("body", True, False, (), None)

_HEAD = f"POST / HTTP/1.1\r\nHost: bench\r\nContent-Length: {SIZE}\r\n\r\n".encode()


class RawUploadBench:
    """Bodies that are no forms, one after the other through one connection of uvicorn.

    Args:
        runner: Runs the event loop.
    """

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._client = runner.run(_connect())

    def run(self, count: int) -> None:
        self._runner.run(self._drive(count))

    async def _drive(self, count: int) -> None:
        for _ in range(count):
            await self._client.upload()


class _Receiver:
    """An ASGI application that writes bodies to shared memory, as an endpoint does before its task is made."""

    def __init__(self, memory: FlowMemory) -> None:
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        memory = self._memory
        arrival = memory.arrivals.expect(SIZE, SIZE, 5.0, DEFAULT_LIMITS.cap)
        with ReadTimeout(DEFAULT_LIMITS) as timeout, BlockWriter(memory.arena, memory.waiters, arrival) as writer:
            writer.begin()
            raw = RawBody(PART, None, None, writer)
            await stream_body(Request(scope, receive), Guards(SIZE, SIZE, timeout, raw))
        (view,) = raw.received.uploads["body"]
        await PlainTextResponse(str(len(view)))(scope, receive, send)


class _Client(asyncio.Transport):
    """The socket of a connection: passes on a request piece by piece, and keeps the answer."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._pieces = [bytes(PIECE)] * (SIZE // PIECE)
        self._answer = b""
        protocol.connection_made(self)

    async def upload(self) -> None:
        self._answer = b""
        for data in (_HEAD, *self._pieces):
            self._protocol.data_received(data)
            await asyncio.sleep(0)
        while not self._answer.endswith(str(SIZE).encode()):
            await asyncio.sleep(0)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._answer += data

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        raise RuntimeError("an upload had to wait, although there is plenty of memory")

    def resume_reading(self) -> None:
        """Do nothing: reading was not paused."""


async def _connect() -> _Client:
    layout = Layout(1, MEMORY_LIMIT)
    memory = FlowMemory(Mapping(create_memory("upload", layout.size), layout.size), layout)
    config = uvicorn.Config(_Receiver(memory), log_level="warning", access_log=False)
    config.load()
    return _Client(HttpToolsProtocol(config, ServerState(), {}))
