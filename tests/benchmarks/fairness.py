"""Tenants that share a service: what the others notice when one of them sends ten times its share."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

import httpx

from ..asgi.service import launched
from ..support import DEADLINE, wait_until, write_script
from .report import Promise, Report, Series

ROUNDS = 3
TENANTS = 5
MODEL_TIME = 0.04
LOAD = 0.8
SECONDS = 12.0
FLOOD = 10
QUEUE_SIZE = 64
"""So small that the client of all tenants does not become the slowest part: it looks at each of its connections."""

MOST = 2.0
NAMES = {"/shared": "with fair", "/plain": "without"}

SOURCE = f"""
    import time
    from typing import Annotated

    from fastapi import FastAPI, Header

    from fastapi_aqueduct import Aqueduct, BaseTask, BaseTaskHandler, FairShare, Flow, TaskField, flow_endpoint

    class Question(BaseTask):
        pass

    class Model(BaseTaskHandler):
        def handle(self, *tasks: Question) -> None:
            time.sleep({MODEL_TIME} * len(tasks))

    shared = Flow(Model(), fair=FairShare("tenant"), queue_size={QUEUE_SIZE}, name="shared")
    plain = Flow(Model(), queue_size={QUEUE_SIZE}, name="plain")
    app = FastAPI(lifespan=Aqueduct(shared, plain).lifespan)

    for flow in (shared, plain):
        @app.get("/" + flow.name)
        @flow_endpoint(flow, timeout_sec=60)
        async def ask(task: Question, tenant: Annotated[str, Header(), TaskField()]) -> None: ...
"""


class Outcome(NamedTuple):
    """What tenants have seen.

    Attributes:
        p95: The 95th percentile of the seconds until the others had their answers.
        refused: Requests of the first tenant that were refused.
        failed: Requests of the others that were.
    """

    p95: float
    refused: int
    failed: int


class Tenants:
    """Tenants that send requests at random times.

    Args:
        http: Sends them.
        path: The endpoint.
        seed: Of the random times.
    """

    def __init__(self, http: httpx.AsyncClient, path: str, seed: int) -> None:
        self._http = http
        self._path = path
        self._random = random.Random(seed)
        self._times: list[float] = []
        self._refused = 0
        self._failed = 0

    async def send(self, factor: float, seconds: float = SECONDS) -> Outcome:
        """Send for some seconds, and wait for the answers.

        Args:
            factor: How many times its share the first tenant sends.
            seconds: For how long.
        """
        share = LOAD / MODEL_TIME / TENANTS
        async with asyncio.TaskGroup() as group:
            for tenant in range(TENANTS):
                group.create_task(self._send(group, tenant, share if tenant else factor * share, seconds))
        return Outcome(quantiles(self._times, n=20)[-1], self._refused, self._failed)

    async def _send(self, group: asyncio.TaskGroup, tenant: int, rate: float, seconds: float) -> None:
        started = at = asyncio.get_running_loop().time()
        while (at := at + self._random.expovariate(rate)) < started + seconds:
            await asyncio.sleep(at - asyncio.get_running_loop().time())
            group.create_task(self._ask(tenant))

    async def _ask(self, tenant: int) -> None:
        started = time.perf_counter()
        response = await self._http.get(self._path, headers={"tenant": str(tenant)})
        if not tenant:
            self._refused += response.status_code != 200
        elif response.status_code == 200:
            self._times.append(time.perf_counter() - started)
        else:
            self._failed += 1


def run(path: str, factor: float, seed: int, directory: Path) -> Outcome:
    """Start a server, and have tenants send to it.

    Args:
        path: ``/shared``, or ``/plain`` for a flow without turns.
        factor: How many times its share the first tenant sends.
        seed: Of the random times.
        directory: For the files of the server.
    """
    directory.mkdir()
    write_script(directory, SOURCE)
    with launched(directory, ["uvicorn", "main:app", "--port={port}", "--log-level=error"]) as (_, port):
        url = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            try:
                return httpx.get(f"{url}/ready").status_code == 200
            except httpx.TransportError:
                return False

        assert wait_until(is_ready, DEADLINE), (directory / "log").read_text()
        return asyncio.run(_send(url, path, factor, seed))


async def _send(url: str, path: str, factor: float, seed: int) -> Outcome:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=DEADLINE, limits=limits, verify=False) as http:
        return await Tenants(http, path, seed).send(factor)


def measure() -> Report:
    """Run all in turns."""
    cases = {
        (path, factor): Series(f"{name}, {what}", [], 0, "p95, ms")
        for path, name in NAMES.items()
        for factor, what in ((1, "all send their share"), (FLOOD, "one sends ten times its share"))
    }
    refused = Series("with fair, of the one that sends ten times its share", [], 0, "refused requests")
    failed = {path: Series(f"{name}, of the others", [], 0, "refused requests") for path, name in NAMES.items()}
    with tempfile.TemporaryDirectory() as root:
        for number in range(ROUNDS):
            for (path, factor), series in cases.items():
                outcome = run(path, factor, number, Path(root, f"{path[1:]}{factor}-{number}"))
                series.values.append(outcome.p95 * 1e3)
                if factor > 1:
                    failed[path].values.append(outcome.failed)
                if (path, factor) == ("/shared", FLOOD):
                    refused.values.append(outcome.refused)
    ratio = cases["/shared", FLOOD].over(cases["/shared", 1], "p95 of the others, with fair: ten times / once")
    return Report(
        title=f"fairness: {TENANTS} tenants, one worker",
        notes=[
            f"a model of {MODEL_TIME * 1000:.0f} ms; each tenant sends {LOAD / MODEL_TIME / TENANTS:.0f} requests a "
            f"second at random times for {SECONDS:.0f} s, which is {LOAD:.0%} of what the worker can do",
            "p95: of the milliseconds until the other four have their answers, over HTTP",
        ],
        rows=[*cases.values(), refused, *failed.values()],
        promises=[Promise(ratio, MOST), Promise(failed["/shared"], 0)],
    )
