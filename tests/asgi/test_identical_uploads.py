"""Equal uploads that arrive at once, over a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, FlowStep, flow_endpoint

from ..handlers import Gate, notes
from ..support import blocks, eventually, forked
from .hashed import Read, Scan, same_scan
from .support import serving, taken

BODY = bytes(range(250)) * 400
COUNTS = {"ann": 100, "bob": 20}


async def test_a_hundred_identical_uploads_are_one_run_for_each_user(tmp_path: Path) -> None:
    """Each user gets what was read for that user, and a client that leaves takes nothing from the others."""
    flow = forked(FlowStep(Read(tmp_path), coalesce_key=same_scan, nprocs=2))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/scan")
    @flow_endpoint(flow, timeout_sec=60)
    async def scan(task: Scan) -> str:
        return task.text

    limits = httpx.Limits(max_connections=None)
    async with (
        serving(app) as server,
        httpx.AsyncClient(base_url=server.base_url, timeout=100, verify=False, limits=limits) as http,
    ):

        async def send(user: str, body: bytes = BODY) -> httpx.Response:
            return await http.post("/scan", content=body, headers={"x-user": user})

        sent = {user: [asyncio.create_task(send(user)) for _ in range(count)] for user, count in COUNTS.items()}
        await eventually(lambda: flow.statistics().steps[0].coalesced == 118)
        left = sent["ann"].pop()
        left.cancel()
        await asyncio.wait([left])
        await eventually(lambda: flow.statistics().in_flight == 119)
        Gate(tmp_path).open()
        for user, requests in sent.items():
            answers = await asyncio.gather(*requests)
            assert {(answer.status_code, answer.json()) for answer in answers} == {(200, f"100000 bytes of {user}")}
        assert sorted(notes(tmp_path / "runs")) == ["ann/100000", "bob/100000"]
        assert (await send("ann", BODY[:-1])).json() == "99999 bytes of ann"
        await eventually(lambda: blocks(flow) == taken(flow) == 0)
        assert flow.statistics().completed == 120
