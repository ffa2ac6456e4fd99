"""A server whose descriptors are used up by idle connections while a worker dies."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..asgi.service import SOURCE, Service, launched
from ..support import DEADLINE, Ends, wait_until, write_script

LIMIT = 80
"""Descriptors that the server may have, as after ``ulimit -n 80``."""

IDLE = 140
"""Connections that clients open and say nothing on."""


@pytest.mark.parametrize("loop", ["uvloop", pytest.param("asyncio", marks=pytest.mark.long)])
def test_idle_connections_that_use_up_the_descriptors_take_no_worker_for_good(tmp_path: Path, loop: str) -> None:
    write_script(tmp_path, SOURCE.format(handler="Hold", delay=0.0))
    options = [f"--loop={loop}", "--timeout-keep-alive=60", "--log-level=critical"]
    with launched(tmp_path, ["uvicorn", "main:app", "--port={port}", *options]) as (process, port):
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        service = Service(tmp_path, process, port)
        assert wait_until(lambda: process.poll() is not None or service.probe() == 200, DEADLINE)
        # Open before the others come, so it can ask also when there is no descriptor left.
        with httpx.Client(base_url=service.url, timeout=DEADLINE) as probe, contextlib.ExitStack() as idle:
            assert ready(probe) == (200, 2)
            for _ in range(IDLE):
                idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
            assert wait_until(lambda: descriptors(process.pid) >= LIMIT - 1, DEADLINE), descriptors(process.pid)
            before = service.workers()
            assert len(before) == 2
            victim = min(before)
            with Ends([victim]) as ends:
                os.kill(victim, signal.SIGKILL)
                assert ends.wait(DEADLINE) == set()
            # The descriptors of the dead worker go to connections that wait, or are too few for a process.
            assert wait_until(lambda: ready(probe) == (200, 1), DEADLINE)
            assert wait_until(lambda: "could not be started" in service.log(), DEADLINE), service.log()
            idle.close()
            assert wait_until(lambda: ready(probe) == (200, 2), DEADLINE), service.log()
        assert service.probe() == 200
        assert len(service.workers()) == 2
        assert service.workers() != before


def ready(probe: httpx.Client) -> tuple[int, int]:
    """Ask whether the server is ready, and how many workers are."""
    response = probe.get("/ready")
    found: Any = response.json()
    return response.status_code, found["steps"][0]["ready"]


def descriptors(pid: int) -> int:
    """Count the descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))
