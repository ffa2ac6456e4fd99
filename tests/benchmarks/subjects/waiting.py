"""A flow whose model is worth batching for, and traffic for it: callers who come back, or tasks at random."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any, Literal

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..servers.work import BATCH_SIZE, run_model
from ..subject import say, wait_for_end

WARM_UP = 1.0
DURATION = 4.0


class Task(BaseTask):
    pass


class Model(BaseTaskHandler):
    def handle(self, *tasks: Task) -> None:
        run_model(len(tasks))


class Traffic:
    """Sends tasks through a flow and notes what they took.

    Args:
        flow: Where they go.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._times: list[float] = []
        self._door = asyncio.Lock()

    async def measure(self, traffic: Callable[[], asyncio.Future[Any]]) -> dict[str, float]:
        """Have it flow for a while; return tasks per second, and percentiles of their milliseconds."""
        flowing = traffic()
        await asyncio.sleep(WARM_UP)
        self._times.clear()
        started = time.perf_counter()
        await asyncio.sleep(DURATION)
        rate, times = len(self._times) / (time.perf_counter() - started), self._times[:]
        flowing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flowing
        percentiles = quantiles(times, n=100)
        return {"rate": rate, "p50": percentiles[49] * 1e3, "p99": percentiles[98] * 1e3}

    def callers(self, count: int) -> asyncio.Future[Any]:
        """Run ``count`` callers that process one task after the other."""
        return asyncio.gather(*(self._call_on() for _ in range(count)))

    def random(self, rate: float) -> asyncio.Future[Any]:
        """Let tasks arrive at random, ``rate`` per second on average."""
        return asyncio.ensure_future(self._arrive(rate))

    async def _call_on(self) -> None:
        while True:
            await self._process()
            # As requests do, the next calls come one after the other, each in a turn of the event loop of its own.
            async with self._door:
                await asyncio.sleep(0)

    async def _arrive(self, rate: float) -> None:
        chance, due = random.Random(11), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while True:
                due += chance.expovariate(rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self._process())

    async def _process(self) -> None:
        started = time.perf_counter()
        await self._flow.process(Task(), timeout_sec=60)
        self._times.append(time.perf_counter() - started)


async def main(timeout: float | Literal["auto"], kind: str, amount: float) -> None:
    async with Flow(FlowStep(Model(), batch_size=BATCH_SIZE, batch_timeout=timeout)) as flow:
        traffic = Traffic(flow)
        flows = {"callers": lambda: traffic.callers(int(amount)), "random": lambda: traffic.random(amount)}
        say(await traffic.measure(flows[kind]))
        wait_for_end()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
