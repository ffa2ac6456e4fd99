"""An API process of the storm: sends tasks to the pipeline that it shares, checks the answers, and says what came."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
import uvloop
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, AqueductError, BaseTask, BaseTaskHandler, Flow, FlowStep

CALLERS = 6
LIMIT = 30.0
"""Seconds that a task has. One that takes longer hangs."""

SIZES = (100, 20_000, 300_000)


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


flow = Flow(FlowStep(Add(), nprocs=2, concurrency=4, handle_timeout=20), name="storm", memory_limit=256 << 20)


class Caller:
    """Sends tasks until an event is set.

    Args:
        seed: Of all that is random.
        seen: Counts what has come.
    """

    def __init__(self, seed: int, seen: Counter[str]) -> None:
        self._random = random.Random(seed)
        self._seen = seen

    async def run(self, end: asyncio.Event) -> None:
        """Send one task after the other."""
        while not end.is_set():
            began_at = time.monotonic()
            try:
                self._seen["right" if await self._is_right() else "wrong"] += 1
            except AqueductError as exc:
                self._seen[type(exc).__name__] += 1
                await asyncio.sleep(0.02)
            if time.monotonic() - began_at > LIMIT + 5:
                self._seen["hung"] += 1

    async def _is_right(self) -> bool:
        numbers = np.full(self._random.choice(SIZES), self._random.randrange(250), np.uint8)
        task = Sum(numbers)
        first, total = int(numbers[0]), int(numbers.sum())
        if self._random.random() < 0.5:
            items = [item async for item in flow.stream(task, LIMIT)]
        else:
            await flow.process(task, LIMIT)
            items = [first] * 3
        return items == [first] * 3 and task.total == total and bool((task.numbers == first + 1).all())


async def main(seed: int) -> None:
    """Run until SIGTERM."""
    seen: Counter[str] = Counter()
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    async with Aqueduct(flow, pipeline="host").run(FastAPI()):
        print(json.dumps("ready"), flush=True)
        await asyncio.gather(*[Caller(100 * seed + number, seen).run(end) for number in range(CALLERS)])
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
