"""Requests of many clients to the service that is monitored."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator

import httpx

from ..support import DEADLINE

CLIENTS = 40
"""More than the queue has places, so that some requests are refused."""

FATES = ("fail", "hang", "die")
"""What happens to a few of the pictures."""

BETWEEN = 700
"""Pictures to which nothing happens, before the next few."""

SIZE = 20_000
"""Bytes of a picture: what is sent before a refusal comes."""

ALBUMS = (3, 1, 2, 0)
"""Pages of the albums that are ordered together; the last one fails."""

WORDS = "where does the time of a request go"


async def load(url: str, seconds: float) -> Counter[str]:
    """Send requests for a time, and return how many answers of each kind came.

    Args:
        url: Where the service listens.
        seconds: For how long.
    """
    answers: Counter[str] = Counter()
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=DEADLINE, limits=limits, trust_env=False) as client:
        fates = itertools.cycle([*FATES, *[""] * BETWEEN])
        async with asyncio.TaskGroup() as group:
            for index in range(CLIENTS):
                delay = seconds / 2 * index / CLIENTS  # the load grows until half of the time
                group.create_task(_send_photos(client, fates, delay, end, answers))
            group.create_task(_ask(client, end, answers))
            group.create_task(_order(client, end, answers))
    return answers


async def _send_photos(
    client: httpx.AsyncClient, fates: Iterator[str], delay: float, end: float, answers: Counter[str]
) -> None:
    await asyncio.sleep(delay)
    while time.monotonic() < end:
        fate = next(fates)
        response = await client.post("/photos", params={"fate": fate}, content=bytes(SIZE))
        answers[f"{response.status_code}"] += 1
        if response.status_code == 503:
            await asyncio.sleep(0.05)


async def _ask(client: httpx.AsyncClient, end: float, answers: Counter[str]) -> None:
    while time.monotonic() < end:
        response = await client.get("/answers", params={"text": WORDS})
        answers["words"] += response.text.count("data:")


async def _order(client: httpx.AsyncClient, end: float, answers: Counter[str]) -> None:
    while time.monotonic() < end:
        for pages in ALBUMS:
            response = await client.post("/albums", params={"pages": pages})
            answers[f"{response.status_code}"] += 1
        await client.get(response.headers["location"], params={"wait": 10})
