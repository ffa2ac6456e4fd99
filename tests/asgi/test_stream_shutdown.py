"""Servers that stop while streams are open."""

from __future__ import annotations

import asyncio
import fcntl
import signal
import socket
import sys
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from fastapi_aqueduct.asgi.streaming.response import STALL_TIMEOUT

from ..handlers import Gate
from ..support import DEADLINE, Ends, eventually, write_script
from .service import SERVERS, Service, launched

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

STOP_TIMEOUT = 3.0
"""Seconds that streams have after SIGTERM."""

AT_ONCE = 10.0
"""Seconds; what waits for the stop timeout takes 60 here."""

SOURCE = """
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from fastapi.responses import EventSourceResponse

    from fastapi_aqueduct import Aqueduct, Flow, FlowStep, FlowStream, flow_endpoint
    from tests.asgi.handlers import Tick, Ticks

    flow = Flow(FlowStep(Tick(), concurrency=8), stop_timeout={stop_timeout})
    app = FastAPI(lifespan=Aqueduct(flow, drain_delay={delay}).lifespan)

    @app.get("/ticks", response_class=EventSourceResponse)
    @flow_endpoint(flow, timeout_sec=60)
    async def ticks(task: Ticks, lines: FlowStream[str]) -> AsyncIterator[str]:
        async for line in lines:
            yield line
"""

OPTIONS = {"hypercorn-alone": ["--graceful-timeout=60"]}
"""What a server needs to wait for streams as long as the flow does."""


class Streams:
    """A server, and the client of its streams.

    Args:
        service: The server.
        http: The client.
        ends: Watches its processes.
    """

    def __init__(self, service: Service, http: httpx.AsyncClient, ends: Ends) -> None:
        self.service = service
        self._http = http
        self._ends = ends

    async def open(self, name: str, count: int = 10**9, at: int = -1) -> asyncio.Task[tuple[int, bool]]:
        """Open a stream and wait for its first item.

        Returns:
            Counts its items, and tells whether it was whole.
        """
        has_begun = asyncio.Event()
        path = f"/ticks?gate={self.service.directory}&name={name}&count={count}&at={at}"
        reading = asyncio.create_task(self._read(path, has_begun))
        await asyncio.wait_for(has_begun.wait(), DEADLINE)
        return reading

    async def _read(self, path: str, has_begun: asyncio.Event) -> tuple[int, bool]:
        count = 0
        try:
            async with self._http.stream("GET", path) as response:
                async for line in response.aiter_lines():
                    count += bool(line)
                    has_begun.set()
        except httpx.RemoteProtocolError:
            return count, False
        return count, True

    async def exits(self, within: float) -> int:
        """Wait until the server and all its processes have ended; return its exit code."""
        code = await asyncio.to_thread(self.service.process.wait, within)
        assert await asyncio.to_thread(self._ends.wait, AT_ONCE) == set()
        return code


@asynccontextmanager
async def streaming(directory: Path, server: str, stop_timeout: float, delay: float = 0.0) -> AsyncIterator[Streams]:
    """Run a server until the end of the context."""
    directory.mkdir(exist_ok=True)
    write_script(directory, SOURCE.format(stop_timeout=stop_timeout, delay=delay))
    with launched(directory, [*SERVERS[server], *OPTIONS.get(server, [])]) as (process, port):
        service = Service(directory, process, port)
        await eventually(lambda: service.probe() == 200)
        async with httpx.AsyncClient(base_url=service.url, timeout=DEADLINE, verify=False) as http:
            with Ends(service.processes()) as ends:
                yield Streams(service, http, ends)


async def test_sigterm(tmp_path: Path) -> None:
    """A stream that ends in time is whole; one that does not is cut, and the server ends."""

    async def stop(server: str) -> None:
        async with streaming(tmp_path / server, server, STOP_TIMEOUT) as streams:
            short, endless = await streams.open("short", count=5, at=3), await streams.open("endless")
            begun = time.monotonic()
            streams.service.process.terminate()
            await eventually(lambda: streams.service.probe() != 200)
            Gate(streams.service.directory, "short").open()
            assert await short == (5, True)
            count, is_whole = await endless
            assert not is_whole and count > 5
            assert time.monotonic() - begun >= STOP_TIMEOUT
            assert await streams.exits(AT_ONCE) in (0, -signal.SIGTERM)
            assert "Traceback" not in streams.service.log()

    async with asyncio.TaskGroup() as group:  # together: each of them waits for seconds
        for server in ("uvicorn", "hypercorn-alone", "granian"):
            group.create_task(stop(server), name=server)


@pytest.mark.parametrize(
    "server", ["uvicorn", *(pytest.param(name, marks=pytest.mark.long) for name in ("hypercorn-alone", "granian"))]
)
async def test_ctrl_c(tmp_path: Path, server: str) -> None:
    """Streams end at once, and the server with them."""
    async with streaming(tmp_path, server, 60) as streams:
        endless = await streams.open("endless")
        streams.service.interrupt()
        assert (await asyncio.wait_for(endless, AT_ONCE))[1] is False
        assert await streams.exits(AT_ONCE) in (0, -signal.SIGINT)
        assert "Traceback" not in streams.service.log()


def unread(client: socket.socket) -> int:
    """Count the bytes that the system has for a client."""
    return int.from_bytes(fcntl.ioctl(client, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.long
async def test_ctrl_c_and_a_client_that_reads_nothing(tmp_path: Path) -> None:
    """It is given up after the stall timeout, and the server ends."""
    async with streaming(tmp_path, "uvicorn", 60) as streams:
        url = httpx.URL(streams.service.url)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
            client.connect((url.host, url.port))
            client.sendall(f"GET /ticks?gate={tmp_path}&pace=0&size=10000 HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            await eventually(lambda: unread(client) > 0)
            before = -1
            while (now := unread(client)) != before:  # until the buffers are full
                before = now
                await asyncio.sleep(0.2)
            streams.service.interrupt()
            assert await streams.exits(STALL_TIMEOUT + AT_ONCE) in (0, -signal.SIGINT)
