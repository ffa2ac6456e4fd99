"""An API process of the storm: sends tasks to the pipeline that it shares, checks the answers, and says what came.

It says "ready", and then answers each line of its input: "rest" with the ends of its tasks, when its callers have
ended, and "look" with what is left when no process sends tasks. At the end of its input it leaves.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
import uvloop
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, AqueductError, BaseTask, BaseTaskHandler, Flow, FlowStep

from ..support import DEADLINE

CALLERS = 6
LIMIT = 30.0
"""Seconds that a task has. One that takes longer hangs."""

SIZES = (100, 20_000, 300_000)

DEFAULTS = "defaults"
"""The argument with which the flow has default settings."""


class Sum(BaseTask):
    """Numbers that are added up, and come back one larger."""

    def __init__(self, numbers: Any) -> None:
        super().__init__()
        self.numbers = numbers
        self.total = 0


class Add(BaseTaskHandler):
    """Adds them up, and yields the first ones."""

    def handle(self, *tasks: Sum) -> Any:
        """Work on one task."""
        (task,) = tasks
        task.total = int(task.numbers.sum())
        for number in range(3):
            yield int(task.numbers[number])
        task.numbers = task.numbers + 1


def make_flow(has_defaults: bool) -> Flow:
    """Make the flow of the storm.

    Args:
        has_defaults: Whether it has default settings.
    """
    if has_defaults:
        return Flow(Add(), name="storm")
    return Flow(FlowStep(Add(), nprocs=2, concurrency=4, handle_timeout=20), name="storm", memory_limit=256 << 20)


class Caller:
    """Sends tasks until an event is set.

    Args:
        flow: The flow.
        seed: Of all that is random.
        seen: Counts what has come.
    """

    def __init__(self, flow: Flow, seed: int, seen: Counter[str]) -> None:
        self._flow = flow
        self._random = random.Random(seed)
        self._seen = seen

    async def run(self, end: asyncio.Event) -> None:
        """Send one task after the other."""
        while not end.is_set():
            began_at = time.monotonic()
            try:
                self._seen["right" if await self.is_right() else "wrong"] += 1
            except AqueductError as exc:
                self._seen[type(exc).__name__] += 1
                await asyncio.sleep(0.02)
            if time.monotonic() - began_at > LIMIT + 5:
                self._seen["hung"] += 1

    async def is_right(self) -> bool:
        """Send a task, and tell whether its answer is right."""
        numbers = np.full(self._random.choice(SIZES), self._random.randrange(250), np.uint8)
        task = Sum(numbers)
        first, total = int(numbers[0]), int(numbers.sum())
        if self._random.random() < 0.5:
            items = [item async for item in self._flow.stream(task, LIMIT)]
        else:
            await self._flow.process(task, LIMIT)
            items = [first] * 3
        return items == [first] * 3 and task.total == total and bool((task.numbers == first + 1).all())


def descriptors() -> Counter[str]:
    """Count the descriptors of this process by what they are."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{number}").partition(":[")[0]] += 1
        except FileNotFoundError:
            pass  # the listing itself
    return found


async def find_left(flow: Flow, before: Counter[str]) -> dict[str, Any]:
    """Wait until nothing is left of tasks, in any process; return what is."""
    deadline = time.monotonic() + 2 * DEADLINE
    caller = Caller(flow, 0, Counter())
    while time.monotonic() < deadline:
        try:
            assert await caller.is_right()  # else there may be no pipeline, which holds nothing
            break
        except AqueductError:
            await asyncio.sleep(0.1)
    while True:
        gc.collect()
        statistics = flow.statistics()
        arena = statistics.arena
        left = {
            "state": "" if statistics.state == "running" else statistics.state,
            "in flight": statistics.in_flight,
            "arena": [number for number in (arena.blocks, arena.used, arena.leased, arena.retained) if number],
            "descriptors": dict(descriptors() - before),
        }
        if not any(left.values()) or time.monotonic() > deadline:
            return {name: value for name, value in left.items() if value}
        await asyncio.sleep(0.05)


def tell(value: Any) -> None:
    """Print a line."""
    print(json.dumps(value), flush=True)


async def main(seed: int, has_defaults: bool) -> None:
    """Run until the end of the input."""
    flow, seen, end = make_flow(has_defaults), Counter[str](), asyncio.Event()
    async with Aqueduct(flow, pipeline="host").run(FastAPI()):
        await asyncio.to_thread(int)  # the first thread of the pool that reads the input
        before = descriptors()
        tell("ready")
        callers = [asyncio.create_task(Caller(flow, 100 * seed + n, seen).run(end)) for n in range(CALLERS)]
        await asyncio.to_thread(sys.stdin.readline)
        end.set()
        await asyncio.gather(*callers)
        tell(seen)
        await asyncio.to_thread(sys.stdin.readline)
        tell(await find_left(flow, before))
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), DEFAULTS in sys.argv))
