"""How slow a client may be, and what is not charged to it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, ConfigurationError, UploadLimits, flow_endpoint

from ..support import DEADLINE, eventually, forked, wait_until, write_script
from .handlers import Add, Picture
from .service import launched
from .support import Connection, serving, taken

SERVER = """
    from fastapi import FastAPI

    from fastapi_aqueduct import Aqueduct, Flow, UploadLimits, flow_endpoint
    from tests.asgi.handlers import Add, Picture

    flow = Flow(Add())
    app = FastAPI(lifespan=Aqueduct(flow, upload_limits=UploadLimits({limits})).lifespan)

    @app.post("/total")
    @flow_endpoint(flow, timeout_sec=30)
    async def total(task: Picture) -> int:
        return task.total
"""


async def test_a_client_that_has_been_fast_is_judged_by_what_it_sends_now() -> None:
    """A burst buys no time: it would hold its memory for hours with a byte now and then."""
    flow = forked(Add())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    limits = UploadLimits(idle_timeout=DEADLINE, min_rate=1000, grace=0.4)

    @app.post("/total")
    @flow_endpoint(flow, upload_limits=limits)
    async def total(task: Picture) -> int:
        return task.total

    async with serving(app) as server, Connection(server) as connection:
        await connection.send("/total", "Content-Length: 16000000", body=b"x" * 4_000_000)
        await eventually(lambda: taken(flow))
        head = asyncio.create_task(connection.read_head())
        begun = time.monotonic()
        while not head.done():
            assert time.monotonic() < begun + DEADLINE / 2, "4 MB bought time for a byte every 50 ms"
            await connection.send_more(b"x")
            await asyncio.wait([head], timeout=0.05)
        assert " 408 " in (await head).splitlines()[0]
        await eventually(lambda: taken(flow) == 0)


@pytest.mark.parametrize(
    ("loop", "limits"),
    [
        ("asyncio", "idle_timeout=0.6, min_rate=0"),
        ("uvloop", "idle_timeout=0.6, min_rate=0"),
        ("uvloop", "min_rate=500_000, grace=0.6"),
    ],
)
def test_a_pause_of_the_server_is_not_charged_to_its_clients(tmp_path: Path, loop: str, limits: str) -> None:
    """They send on, until the kernel takes no more; the server is stopped and goes on."""
    write_script(tmp_path, SERVER.format(limits=limits))
    size, piece = 6_000_000, b"\0" * 120_000
    with launched(tmp_path, ["uvicorn", "main:app", "--port={port}", f"--loop={loop}"]) as (process, port):
        assert wait_until(lambda: _listens(port), DEADLINE)
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
            client.sendall(b"POST /total HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size)
            resume = threading.Timer(1.5, os.kill, (process.pid, signal.SIGCONT))
            for number in range(size // len(piece)):
                client.sendall(piece)
                if number == 20:
                    os.kill(process.pid, signal.SIGSTOP)
                    resume.start()
                time.sleep(0.02)  # the pace of the client: 6 MB/s
            assert client.recv(100).split()[1] == b"200", (tmp_path / "log").read_text()
            resume.join()


def test_a_rate_needs_a_time_to_be_judged_over() -> None:
    with pytest.raises(ConfigurationError, match="grace must be positive"):
        UploadLimits(grace=0)
    assert UploadLimits(grace=0, min_rate=0).min_rate == 0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
