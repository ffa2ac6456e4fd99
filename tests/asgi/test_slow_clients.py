"""Many clients that send a body one byte a second, while others want to be served."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import httpx
import pytest
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, Flow, UploadLimits, flow_endpoint

from ..slow_clients import SlowClient, SlowClients, allow_descriptors
from ..support import DEADLINE, eventually
from .handlers import Add, Picture
from .support import serving, taken

MIB = 1 << 20
SIZE = 10_000
KINDS = ("raw", "form", "chunked")
ANY_PACE = UploadLimits(idle_timeout=None, min_rate=0)


def make_app(flow: Flow, limits: UploadLimits | None) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/total")
    @flow_endpoint(flow, timeout_sec=DEADLINE, upload_limits=limits)
    async def total(task: Picture) -> int:
        return task.total

    return app


async def connect(http: httpx.AsyncClient, count: int) -> SlowClients:
    """Let so many clients begin, of all kinds."""
    allow_descriptors(4 * count + 100)
    port = http.base_url.port
    assert port is not None
    kinds = [KINDS[number % len(KINDS)] for number in range(count)]
    return await asyncio.to_thread(lambda: SlowClients(SlowClient(port, "/total", SIZE, kind) for kind in kinds))


async def is_served(http: httpx.AsyncClient) -> bool:
    """Tell whether an ordinary request is answered."""
    answer = await http.post("/total", content=b"\1\2")
    return answer.text == "3"


async def test_those_who_may_take_their_time() -> None:
    """Are all served in the end; meanwhile everybody else is, and their memory stays within the cap."""
    flow = Flow(Add(), memory_limit=256 * MIB)
    async with serving(make_app(flow, ANY_PACE)) as http:
        with await connect(http, 200) as clients:
            await eventually(lambda: flow.statistics().arena.receiving >= 200 * SIZE)
            dripping = asyncio.create_task(asyncio.to_thread(clients.drip, 2.0))
            while not dripping.done():
                assert await is_served(http)
            assert 200 * SIZE <= flow.statistics().arena.receiving <= 128 * MIB
            assert not clients.statuses
            await asyncio.to_thread(clients.finish, DEADLINE)
            assert clients.statuses == Counter({200: 200})
        await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)


async def test_those_who_are_too_slow() -> None:
    """Are all refused when the grace is over, and nothing of them remains."""
    flow = Flow(Add(), memory_limit=256 * MIB)
    async with serving(make_app(flow, UploadLimits(grace=1.0))) as http:
        with await connect(http, 200) as clients:
            dripping = asyncio.create_task(asyncio.to_thread(clients.drip, DEADLINE))
            while not dripping.done():
                assert await is_served(http)
            assert clients.statuses == Counter({408: 200})
            await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)


@pytest.mark.parametrize(
    "limits",
    [
        UploadLimits(idle_timeout=None, min_rate=0, max_uploads=50),
        UploadLimits(idle_timeout=None, min_rate=0, max_pending_bytes=500_000),
    ],
    ids=["uploads", "bytes"],
)
async def test_those_who_are_too_many(limits: UploadLimits) -> None:
    """Are refused at once; the others keep within the cap what they have of the memory."""
    flow = Flow(Add(), memory_limit=256 * MIB)
    async with serving(make_app(flow, limits)) as http:
        with await connect(http, 200) as clients:
            deadline = time.monotonic() + DEADLINE
            while clients.statuses.total() < 100 and time.monotonic() < deadline:
                await asyncio.to_thread(clients.drip, 1.0)
            assert clients.statuses.keys() == {503} and clients.statuses[503] >= 100
            receiving = flow.statistics().arena.receiving
            assert receiving <= (limits.max_pending_bytes or 50 * 256 * 1024)
            await asyncio.to_thread(clients.finish, DEADLINE)
            assert clients.statuses.keys() == {200, 503} and clients.statuses.total() == 200
        assert await is_served(http)
        await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)


async def test_those_who_leave() -> None:
    """Leave nothing behind."""
    flow = Flow(Add(), memory_limit=256 * MIB)
    async with serving(make_app(flow, ANY_PACE)) as http:
        with await connect(http, 200) as clients:
            await asyncio.to_thread(clients.drip, 1.0)
            assert not clients.statuses
        await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)
        assert await is_served(http)


@pytest.mark.long
async def test_a_thousand_meet_the_usual_guards() -> None:
    """All are gone twenty seconds later, and nobody else has noticed."""
    flow = Flow(Add())
    async with serving(make_app(flow, None)) as http:
        with await connect(http, 1000) as clients:
            begun = time.monotonic()
            dripping = asyncio.create_task(asyncio.to_thread(clients.drip, 40.0))
            while not dripping.done():
                assert await is_served(http)
            assert clients.statuses == Counter({408: 1000})
            assert 15 < time.monotonic() - begun < 35
            await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)
