"""Answers from shared memory arrive as they lie there, and say where the time went."""

from __future__ import annotations

import asyncio

import numpy as np

from .clients import Client
from .ways import every_way

TIMES = ["queue", "step1_Everything", "total"]


@every_way
async def test_shared_memory(client: Client) -> None:
    """Of any size, also several at once."""
    sizes = (0, 1, 1_500_000)
    responses = [await client.send("GET", f"/pixels?size={size}") for size in sizes]
    responses += await asyncio.gather(*(client.send("GET", f"/pixels?size={size}") for size in sizes))
    for size, response in zip(sizes * 2, responses, strict=True):
        assert (response.status_code, response.headers["content-length"]) == (200, str(4 * size))
        assert response.content == np.arange(size, dtype=np.uint32).tobytes()
        entries = response.headers["server-timing"].split(", ")
        assert [entry.partition(";")[0] for entry in entries] == TIMES
