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
from ..support import DEADLINE, eventually, forked
from .handlers import Add, Count, Picture
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
    """Start ``count`` clients, of all kinds."""
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
    """All are served in the end; meanwhile other clients are, and the memory stays within the cap."""
    flow = forked(Add(), memory_limit=256 * MIB)
    async with serving(make_app(flow, ANY_PACE)) as http:
        with await connect(http, 200) as clients:
            dripping = asyncio.create_task(asyncio.to_thread(clients.drip, 2.0))
            while not dripping.done():
                assert await is_served(http)
            await eventually(lambda: flow.statistics().arena.receiving >= 200)
            assert flow.statistics().arena.receiving <= 200 * SIZE // 10
            assert not clients.statuses
            await asyncio.to_thread(clients.finish, DEADLINE)
            assert clients.statuses == Counter({200: 200})
        await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)


async def test_those_who_are_too_slow() -> None:
    """They are all refused when the grace is over, and nothing of them remains."""
    flow = forked(Add(), memory_limit=256 * MIB)
    async with serving(make_app(flow, UploadLimits(grace=1.0))) as http:
        with await connect(http, 200) as clients:
            dripping = asyncio.create_task(asyncio.to_thread(clients.drip, DEADLINE))
            while not dripping.done():
                assert await is_served(http)
            assert clients.statuses == Counter({408: 200})
            await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)


async def test_those_who_are_too_many() -> None:
    """They are refused at once."""
    flow = forked(Add(), memory_limit=256 * MIB)
    limits = UploadLimits(idle_timeout=None, min_rate=0, max_uploads=50)
    async with serving(make_app(flow, limits)) as http:
        with await connect(http, 200) as clients:
            deadline = time.monotonic() + DEADLINE
            while clients.statuses.total() < 150 and time.monotonic() < deadline:
                await asyncio.to_thread(clients.drip, 1.0)
            assert clients.statuses == Counter({503: 150})
            await asyncio.to_thread(clients.finish, DEADLINE)
            assert clients.statuses == Counter({200: 50, 503: 150})
        assert await is_served(http)
        await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)


async def test_those_who_have_too_little_room_together() -> None:
    """They are all served, some after others, and never have more than their share."""
    flow = forked(Add(), memory_limit=256 * MIB)
    limits = UploadLimits(idle_timeout=None, min_rate=0, max_pending_bytes=500_000)
    most = 0
    async with serving(make_app(flow, limits)) as http:
        with await connect(http, 200) as clients:
            await asyncio.to_thread(clients.drip, 1.0)
            assert await is_served(http)
            finishing = asyncio.create_task(asyncio.to_thread(clients.finish, DEADLINE))
            while not finishing.done():
                most = max(most, flow.statistics().arena.receiving)
                await asyncio.sleep(0)
            assert clients.statuses == Counter({200: 200})
        assert 0 < most <= 500_000 + SIZE
        await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)


@pytest.mark.parametrize("sent", [0, 1], ids=["headers", "a-byte"])
async def test_those_who_only_announce(sent: int) -> None:
    """They cost nothing: two of them, with 64 MiB each, would have the half of the memory that uploads may have."""
    flow = forked(Add(), memory_limit=128 * MIB)
    async with serving(make_app(flow, None)) as http:
        port = http.base_url.port
        assert port is not None
        allow_descriptors(1000)
        crowd = await asyncio.to_thread(
            lambda: SlowClients(SlowClient(port, "/total", 64 * MIB - 1) for _ in range(200))
        )
        with crowd as clients:
            if sent:
                await asyncio.to_thread(clients.drip, 1.0)
                await eventually(lambda: flow.statistics().arena.receiving >= 200)
            for size in (1, MIB, 16 * MIB):
                begun = time.monotonic()
                assert (await http.post("/total", content=bytes(size))).text == "0"
                assert time.monotonic() - begun < DEADLINE / 2, "who waits is not refused, but has been disturbed"
            assert not clients.statuses
        await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)


async def test_those_who_leave() -> None:
    """They leave nothing behind."""
    flow = forked(Add(), memory_limit=256 * MIB)
    async with serving(make_app(flow, ANY_PACE)) as http:
        with await connect(http, 200) as clients:
            await asyncio.to_thread(clients.drip, 1.0)
            assert not clients.statuses
        await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)
        assert await is_served(http)


@pytest.mark.long
async def test_a_thousand_meet_the_usual_guards() -> None:
    """All are cut off twenty seconds later, and other clients are not affected."""
    flow = forked(Add())
    async with serving(make_app(flow, None)) as http:
        with await connect(http, 1000) as clients:
            begun = time.monotonic()
            dripping = asyncio.create_task(asyncio.to_thread(clients.drip, 40.0))
            while not dripping.done():
                assert await is_served(http)
            assert clients.statuses == Counter({408: 1000})
            assert 15 < time.monotonic() - begun < 35
            await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)


async def test_those_who_are_honest_and_many() -> None:
    """Twenty uploads of 16 MiB have far more together than there is memory, and all of them are served."""
    flow = forked(Count(), memory_limit=128 * MIB)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/length")
    @flow_endpoint(flow, timeout_sec=DEADLINE)
    async def length(task: Picture) -> int:
        return task.total

    content = bytes(16 * MIB)
    async with serving(app) as http:
        answers = await asyncio.gather(*[http.post("/length", content=content) for _ in range(20)])
        assert [answer.text for answer in answers] == [str(len(content))] * 20
        await eventually(lambda: taken(flow) == flow.statistics().arena.receiving == 0)
