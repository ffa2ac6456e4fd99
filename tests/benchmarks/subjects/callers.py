"""Callers of a flow, the same for every package that is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

WARM_UP = 0.3
DURATION = 1.0


async def drive(process: Callable[[], Awaitable[object]], callers: int) -> dict[str, float]:
    """Have so many callers process one task after the other.

    Returns:
        ``rate``, tasks per second after the warm-up, and ``cpu``, the microseconds that this process computed for
        each of them.
    """
    start = time.perf_counter() + WARM_UP
    end = start + DURATION

    async def call() -> int:
        while time.perf_counter() < start:
            await process()
        done = 0
        while time.perf_counter() < end:
            await process()
            done += 1
        return done

    calls = asyncio.gather(*(call() for _ in range(callers)))
    await asyncio.sleep(start - time.perf_counter())
    computed = time.process_time()
    done = sum(await calls)
    return {
        "rate": done / (time.perf_counter() - start),
        "cpu": (time.process_time() - computed) / done * 1e6,
    }
