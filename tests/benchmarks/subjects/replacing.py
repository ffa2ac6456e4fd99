"""Replaces the handler of a flow under an even load and tells what the tasks have noticed."""

from __future__ import annotations

import asyncio
import random
import time
from statistics import quantiles

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..subject import say, wait_for_end

WORKERS = 2
HANDLE_TIME = 0.01
LOAD_TIME = 0.5
SHARE = 0.9
"""Of what the workers can do at most."""

SECONDS = 3.0
"""For how long the load is measured without a replacement, and at least with replacements."""


class Question(BaseTask):
    def __init__(self) -> None:
        super().__init__()
        self.version = 0


class Model(BaseTaskHandler):
    """Takes its time to load and to answer, and no processor.

    Args:
        version: What it answers.
    """

    def __init__(self, version: int) -> None:
        self._version = version

    def on_start(self) -> None:
        time.sleep(LOAD_TIME)

    def handle(self, *tasks: Question) -> None:
        time.sleep(HANDLE_TIME)
        for task in tasks:
            task.version = self._version


class Arrivals:
    """Tasks that arrive at random times, however late the answers are.

    Args:
        flow: Where they arrive.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._tasks: set[asyncio.Task[None]] = set()
        self._random = random.Random(1)
        self.times: list[float] = []
        self.failed = 0

    async def run(self) -> None:
        """Have them arrive until this is cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += self._random.expovariate(SHARE * WORKERS / HANDLE_TIME)
            await asyncio.sleep(max(0.0, due - loop.time()))
            task = asyncio.create_task(self._ask())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            await self._flow.process(Question(), timeout_sec=30)
        except Exception:
            self.failed += 1
        self.times.append(time.monotonic() - began)

    def p99(self) -> float:
        """Return the 99th percentile of the times since the last call, in seconds."""
        times, self.times = self.times, []
        return quantiles(times, n=100)[98]


async def main() -> None:
    async with Flow(FlowStep(Model(1), nprocs=WORKERS, name="model")) as flow:
        arrivals = Arrivals(flow)
        running = asyncio.create_task(arrivals.run())
        await asyncio.sleep(SECONDS / 3)
        arrivals.times.clear()
        await asyncio.sleep(SECONDS)
        quiet = arrivals.p99()
        began, version = time.monotonic(), 1
        while time.monotonic() < began + SECONDS:
            version += 1
            await flow.steps["model"].replace(Model(version))
        say(
            {
                "failed": arrivals.failed,
                "replacement": (time.monotonic() - began) / (version - 1),
                "quiet": quiet,
                "replacing": arrivals.p99(),
            }
        )
        running.cancel()
        wait_for_end()


if __name__ == "__main__":
    asyncio.run(main())
