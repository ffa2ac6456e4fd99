"""The header Server-Timing over HTTP."""

from __future__ import annotations

import asyncio
import re

from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, flow_endpoint

from ..support import forked
from .handlers import WORK, Sum, Work
from .support import serving


async def test_the_queue_is_all_the_waiting() -> None:
    """Of several requests at once, through three steps, each waits for those before it; its parts make up the whole."""
    flow = forked(Work(), Work(), Work())
    app = FastAPI(lifespan=Aqueduct(flow, server_timing=True).lifespan)

    @app.get("/sum")
    @flow_endpoint(flow)
    async def add(task: Sum) -> int:
        return task.a

    async with serving(app) as http:
        answers = await asyncio.gather(*(http.get(f"/sum?a={number}") for number in range(5)))
    queues = []
    for answer in answers:
        found = re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])
        timing = {name: float(duration) / 1000 for name, duration in found}
        total, queue = timing.pop("total"), timing.pop("queue")
        assert len(timing) == 3 and all(duration >= 0.9 * WORK for duration in timing.values())
        # What is left is the work of the server, which other processes may hold up.
        assert 0 <= total - queue - sum(timing.values()) < total / 2
        queues.append(queue)
    # The last one waits before the first step for four others, and then for nothing.
    assert max(queues) >= 3 * WORK and min(queues) < max(queues)
