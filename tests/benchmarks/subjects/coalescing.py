"""A flow whose callers ask for the same things, some more often than others."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from statistics import quantiles

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..subject import say, wait_for_end

CALLERS = 64
MODEL_TIME = 0.01
WARM_UP = 0.5
DURATION = 2.0


class Question(BaseTask):
    def __init__(self, digest: int) -> None:
        self.digest = digest
        self.answer = 0


class Model(BaseTaskHandler):
    """A model that takes a fixed time, or none."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def handle(self, *tasks: Question) -> None:
        for task in tasks:
            if self.seconds:
                time.sleep(self.seconds)
            task.answer = task.digest + 1


class Callers:
    """Callers that each ask again when they have their answer.

    Args:
        flow: What they ask.
        weights: How often each thing is asked for; empty: no two callers ever ask for the same.
    """

    def __init__(self, flow: Flow, weights: list[float]) -> None:
        self._flow = flow
        self._weights = weights
        self._chance = random.Random(3)
        self._times: list[float] = []
        self._asked = 0

    async def measure(self) -> dict[str, float]:
        """Return answers per second, percentiles of their milliseconds, and processor time per answer."""
        asking = asyncio.gather(*(self._ask_on() for _ in range(CALLERS)))
        await asyncio.sleep(WARM_UP)
        self._times.clear()
        started, used = time.perf_counter(), time.process_time()
        await asyncio.sleep(DURATION)
        rate = len(self._times) / (time.perf_counter() - started)
        spent = (time.process_time() - used) / len(self._times)
        percentiles = quantiles(self._times, n=100)
        asking.cancel()
        return {"rate": rate, "p50": percentiles[49] * 1e3, "p99": percentiles[98] * 1e3, "cpu": spent * 1e6}

    async def _ask_on(self) -> None:
        while True:
            question = Question(self._next())
            started = time.perf_counter()
            await self._flow.process(question, timeout_sec=60)
            assert question.answer == question.digest + 1
            self._times.append(time.perf_counter() - started)

    def _next(self) -> int:
        self._asked += 1
        if not self._weights:
            return self._asked
        return self._chance.choices(range(len(self._weights)), self._weights)[0]


async def main(key: str, kind: str) -> None:
    """Measure one kind of traffic: ``popular``, where few things are asked for often, or ``different``."""
    seconds, weights = (MODEL_TIME, [1 / rank for rank in range(1, 101)]) if kind == "popular" else (0.0, [])
    step = FlowStep(Model(seconds), coalesce_key=key or None)
    async with Flow(step) as flow:
        say(await Callers(flow, weights).measure())
        wait_for_end()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
