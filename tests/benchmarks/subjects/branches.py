"""Runs two steps side by side or in a row, between two others, and tells what a task takes."""

from __future__ import annotations

import asyncio
import sys
import time
from statistics import median

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..subject import say, wait_for_end

SLEEP = 0.02
TASKS = 50
CALLERS = 32
ROUNDS = 40
BUSY_ROUNDS = 8
LARGE = 1 << 20


class Picture(BaseTask):
    def __init__(self, size: int) -> None:
        self.content = bytes(size)


class Work(BaseTaskHandler):
    """Sets a field.

    Args:
        name: Name of the field.
        seconds: How long it takes.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds

    def handle(self, *tasks: Picture) -> None:
        if self._seconds:
            time.sleep(self._seconds)
        for task in tasks:
            setattr(task, self._name, len(task.content))


def make_flow(is_grouped: bool, seconds: float) -> Flow:
    first, last = (FlowStep(Work(name, 0.0), name=name) for name in ("first", "last"))
    left, right = (FlowStep(Work(name, seconds), name=name) for name in ("left", "right"))
    return Flow(first, [left, right], last) if is_grouped else Flow(first, left, right, last)


async def time_of(flow: Flow) -> float:
    """Return the seconds of a task that is alone."""
    times = []
    for _ in range(TASKS):
        begun = time.perf_counter()
        await flow.process(Picture(1000))
        times.append(time.perf_counter() - begun)
    return median(times)


async def processor_time_of(flow: Flow, size: int, rounds: int = ROUNDS) -> float:
    """Return the processor time of this process for a task among others, in seconds."""

    async def call(count: int) -> None:
        for _ in range(count):
            await flow.process(Picture(size), 60)

    await asyncio.gather(*[call(rounds // 4) for _ in range(CALLERS)])
    begun = time.process_time()
    await asyncio.gather(*[call(rounds) for _ in range(CALLERS)])
    return (time.process_time() - begun) / (rounds * CALLERS)


async def main() -> None:
    is_grouped = sys.argv[1] == "group"
    async with make_flow(is_grouped, SLEEP) as flow:
        await time_of(flow)
        latency = await time_of(flow)
        busy = await processor_time_of(flow, 100, BUSY_ROUNDS)
    async with make_flow(is_grouped, 0.0) as flow:
        small = await processor_time_of(flow, 100)
        large = await processor_time_of(flow, LARGE)
    say({"latency": latency * 1000, "busy": busy * 1e6, "small": small * 1e6, "large": large * 1e6})
    wait_for_end()


if __name__ == "__main__":
    asyncio.run(main())
