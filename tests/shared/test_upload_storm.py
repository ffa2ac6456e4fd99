"""Uploads to a server with four processes and one pipeline, while processes of all kinds are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..asgi.service import Service, children, launched
from ..support import DEADLINE, wait_until
from .support import kill_one_of, pipelines, processes

SERVERS = 4
CLIENTS = 8
STRIKES = 40
STEP = 1.0
"""Seconds between two strikes, at most."""

LIMIT = 60.0
"""Seconds in which each request is answered. Default settings let a task take 5."""

LARGEST = 1 << 20

COMMAND = [
    "uvicorn",
    "tests.shared.storm_service:app",
    "--port={port}",
    f"--workers={SERVERS}",
    "--timeout-worker-healthcheck=60",  # on a busy machine a process that starts answers the supervisor late
    "--log-level=warning",
]


class Storm:
    """Clients that upload, and check the answers.

    Args:
        service: The server.
        chance: Decides what is uploaded and killed.

    Attributes:
        seen: How many answers were right, wrong, or something else.
        struck: How many processes of which kind were killed.
    """

    def __init__(self, service: Service, chance: random.Random) -> None:
        self._service = service
        self._chance = chance
        self._is_over = False
        self.seen: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()

    async def run(self) -> None:
        """Have the clients upload until the storm is over."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._upload(random.Random(self._chance.random())))
            try:
                await asyncio.to_thread(self._strike)
            finally:
                self._is_over = True

    def _strike(self) -> None:
        for _ in range(STRIKES):
            kind = self._chance.choice(["worker", "worker", "server", "pipeline", "hang"])
            if kind != "server":
                kill_one_of(kind, self._service.directory, self._chance)
            else:
                self._kill_server()
            self.struck[kind] += 1
            time.sleep(self._chance.uniform(0, STEP))  # the storm itself, not a wait for something
            # Else a slow machine never comes to serve between two strikes. Some hit a start.
            if self._chance.random() < 0.8:
                assert self._is_back(), f"it is not back: {self.seen}"

    def _kill_server(self) -> None:
        # Not the last ones: while uvicorn waits for a sign of life of a child that was killed, which may take
        # as long as its health check allows, it replaces no other one.
        if len(servers := servers_of(self._service)) == SERVERS:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(servers), signal.SIGKILL)

    def _is_back(self) -> bool:
        right = self.seen["right"]
        return wait_until(lambda: self.seen["right"] > right, 3 * DEADLINE)

    async def _upload(self, chance: random.Random) -> None:
        while not self._is_over:
            content = chance.randbytes(chance.randrange(LARGEST))
            is_chunked = chance.random() < 0.5
            self.seen[await self._send(content, is_chunked)] += 1

    async def _send(self, content: bytes, is_chunked: bool) -> str:
        # A connection for each: any of the processes may get it.
        async with httpx.AsyncClient(timeout=LIMIT, verify=False) as client:
            try:
                body: Any = pieces(content) if is_chunked else content
                answer = await client.post(f"{self._service.url}/parcels", content=body)
            except httpx.TimeoutException:
                return "hung"
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                return "lost"  # with the process that was killed
        if answer.status_code != 200:
            await asyncio.sleep(0.05)
            return str(answer.status_code)
        return "right" if answer.json() == zlib.crc32(content) else "wrong"


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    """Yield the pieces of a body whose length is not announced."""
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]


def servers_of(service: Service) -> list[int]:
    """List the API processes, which are children of the server."""
    found = []
    for pid in children(service.process.pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"spawn_main" in command:
                found.append(pid)
    return found


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(directory))
        patch.setenv("AQUEDUCT_PIPELINE", "host")
        with launched(directory, COMMAND) as (process, port):
            service = Service(directory, process, port)
            try:
                assert wait_until(lambda: service.probe() == 200, 3 * DEADLINE)
                yield service
            except BaseException:
                print(service.log()[-20_000:])
                raise
            finally:
                for pid in pipelines(directory):  # which has left the process group of the server
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1])
def test_uploads_are_answered_rightly_or_refused(seed: int, tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        storm = Storm(service, random.Random(seed))
        asyncio.run(storm.run())
        print(f"struck {dict(storm.struck)}, seen {dict(storm.seen)}")
        assert storm.seen["right"] > STRIKES // 2
        assert set(storm.seen) <= {"right", "lost", "503", "504"}, storm.seen
        held: dict[int, Any] = {}

        def are_empty() -> bool:
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.get(f"{service.url}/held", timeout=DEADLINE, verify=False).json()
                held[answer.pop("server")] = answer
            present = set(servers_of(service))
            return present <= held.keys() and not any(any(held[pid].values()) for pid in present)

        assert wait_until(are_empty, 4 * DEADLINE), held
        assert wait_until(lambda: len(servers_of(service)) == SERVERS, DEADLINE)
        assert len(pipelines(tmp_path)) == 1
        service.process.terminate()
        assert service.process.wait(2 * DEADLINE) in (0, -signal.SIGTERM)
        assert wait_until(lambda: not processes(tmp_path), DEADLINE), processes(tmp_path)
        assert list((tmp_path / "aqueduct").iterdir()) == []
