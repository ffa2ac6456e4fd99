"""Pods as local servers, and a kubelet that starts, probes, restarts and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from ..support import script_environment
from .journal import Journal
from .manifests import PodTemplate, Probe

FIRST_BACK_OFF = 10.0
LONGEST_BACK_OFF = 300.0
"""Seconds between two starts of a container that ends again and again: 0, 10, 20, 40, ... 300."""


def back_offs(speed: float) -> Iterator[float]:
    """Yield the seconds before each restart of a container.

    Args:
        speed: By what they are divided.
    """
    yield 0.0
    for number in itertools.count():
        yield min(FIRST_BACK_OFF * 2.0**number, LONGEST_BACK_OFF) / speed


class Pod:
    """A pod of one container, a server on a port of this machine.

    Its states are in the journal: ``starting`` (until the startup probe succeeds), ``unready``, ``ready``, ``waiting``
    (for a restart), ``terminating``, ``gone``.

    Args:
        name: Tells it apart.
        template: How it runs.
        image: The directory of the application.
        directory: Where its log comes.
        journal: Where its states are written.
        speed: By what the times between restarts are divided.

    Attributes:
        state: The present state.
        port: Where its server listens.
        pid: The server, 0 while there is none.
        ready_since: Time since which it is ready.
        was_killed: Whether it had to be killed when its time to stop was over.
    """

    def __init__(
        self, name: str, template: PodTemplate, image: Path, directory: Path, journal: Journal, speed: float
    ) -> None:
        self.name = name
        self.image = image
        self.state = "pending"
        self.port = free_port()
        self.pid = 0
        self.ready_since = 0.0
        self.was_killed = False
        self._template = template
        self._log = directory / f"{name}.log"
        self._journal = journal
        self._speed = speed
        self._deleted = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether it gets requests."""
        return self.state == "ready"

    @property
    def is_terminating(self) -> bool:
        """Whether it was deleted."""
        return self._deleted.is_set()

    def is_available(self, min_ready: float) -> bool:
        """Tell whether it has been ready for some time."""
        return self.is_ready and time.monotonic() - self.ready_since >= min_ready

    def delete(self) -> None:
        """Have it stop."""
        self._deleted.set()
        self._enter("terminating")

    def log(self) -> str:
        """Return what its servers have printed."""
        return self._log.read_text() if self._log.exists() else ""

    async def run(self) -> None:
        """Run containers, one after the other, until the pod is deleted."""
        delays = back_offs(self._speed)
        try:
            await self._run_container()
            while not self.is_terminating:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._deleted.wait(), next(delays))
                if not self.is_terminating:
                    await self._run_container()
        finally:
            self._enter("gone")

    async def _run_container(self) -> None:
        self._enter("starting")
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *on_port(self._template.command, self.port)),
                cwd=self.image,
                env={**script_environment(), **self._template.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = process.pid
        ended = asyncio.ensure_future(process.wait())
        waits = [ended, asyncio.ensure_future(self._probe()), asyncio.ensure_future(self._deleted.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._stop(process)
        finally:
            self.pid = 0
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if not self.is_terminating:
            self._enter("waiting", status=process.returncode)

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._template.grace)
        except TimeoutError:
            self.was_killed = True
            process.kill()

    async def _probe(self) -> None:
        """Return when the container must be restarted."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
            if await self._ask_until(http, self._template.startup, succeeds=True):
                self._enter("unready")
                readiness = asyncio.ensure_future(self._watch_readiness(http))
                try:
                    await self._ask_until(http, self._template.liveness, succeeds=False)
                finally:
                    readiness.cancel()
                    await asyncio.wait([readiness])

    async def _ask_until(self, http: aiohttp.ClientSession, probe: Probe, succeeds: bool) -> bool:
        """Ask until enough answers say that the probe has failed, or, if that counts, until one succeeds."""
        failures = 0
        while failures < probe.failure_threshold:
            if await self._ask(http, probe):
                failures = 0
                if succeeds:
                    return True
            else:
                failures += 1
            await asyncio.sleep(probe.period)
        return False

    async def _watch_readiness(self, http: aiohttp.ClientSession) -> None:
        probe = self._template.readiness
        run = 0
        while True:
            has_succeeded = await self._ask(http, probe)
            run = run + 1 if has_succeeded != self.is_ready else 0
            if run >= (probe.success_threshold if has_succeeded else probe.failure_threshold):
                self._enter("ready" if has_succeeded else "unready")
                run = 0
            await asyncio.sleep(probe.period)

    async def _ask(self, http: aiohttp.ClientSession, probe: Probe) -> bool:
        try:
            timeout = aiohttp.ClientTimeout(probe.timeout)
            async with http.get(f"http://127.0.0.1:{self.port}{probe.path}", timeout=timeout) as answer:
                return 200 <= answer.status < 400
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _enter(self, state: str, **details: object) -> None:
        if state == self.state or (self.is_terminating and state not in ("terminating", "gone")):
            return
        self.state = state
        self.ready_since = time.monotonic()
        self._journal.note("pod", pod=self.name, state=state, image=self.image.name, **details)

    def kill(self) -> None:
        """Do what the kernel does when there is no memory: kill the server."""
        os.kill(self.pid, signal.SIGKILL)


def on_port(command: tuple[str, ...], port: int) -> list[str]:
    """Have the server of a container listen on a port of this machine only."""
    command = tuple(re.sub(r"^--port=\d+$", f"--port={port}", word) for word in command)
    return [re.sub(r"^--host=.*$", "--host=127.0.0.1", word) for word in command]


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
