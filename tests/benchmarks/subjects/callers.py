"""Callers of a flow, the same for every package that is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import quantiles

WARM_UP = 0.5
DURATION = 1.0


class Callers:
    """Process one task after the other, each for itself, until the time is over.

    Args:
        process: Takes a task through the flow.
        count: How many callers.
    """

    def __init__(self, process: Callable[[], Awaitable[object]], count: int) -> None:
        self._process = process
        self._waiting_since = [0.0] * count
        self._times: list[float] = []
        self._calls: list[asyncio.Future[None]] = []

    async def drive(self) -> dict[str, float]:
        """Let them run. They go on afterwards: some packages need seconds to answer, or do not bear a cancellation.

        Returns:
            ``rate``, tasks per second after the warm-up; ``cpu``, the microseconds that this process computed for
            each of them; ``p50`` and ``p99`` of the milliseconds that a call took.
        """
        self._calls = [asyncio.ensure_future(self._call(number)) for number in range(len(self._waiting_since))]
        await asyncio.sleep(WARM_UP)
        self._times.clear()
        started, computed = time.perf_counter(), time.process_time()
        await asyncio.sleep(DURATION)
        ended, computed = time.perf_counter(), time.process_time() - computed
        for call in self._calls:
            if call.done():
                call.result()  # only a failure ends one
        done = len(self._times)
        # Who has waited since before the measurement would not be seen at all.
        times = self._times + [ended - since for since in self._waiting_since if since < started]
        p50, p99 = _median_and_p99(times)
        return {"rate": done / (ended - started), "cpu": computed / max(done, 1) * 1e6, "p50": p50, "p99": p99}

    async def _call(self, number: int) -> None:
        while True:
            started = self._waiting_since[number] = time.perf_counter()
            await self._process()
            self._times.append(time.perf_counter() - started)


def _median_and_p99(times: list[float]) -> tuple[float, float]:
    percentiles = quantiles(times, n=100)
    return percentiles[49] * 1e3, percentiles[98] * 1e3


def make_loop(name: str) -> asyncio.AbstractEventLoop:
    """Make the event loop of that name: ``asyncio`` or ``uvloop``."""
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
