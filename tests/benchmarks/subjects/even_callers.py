"""Callers in one process of several, each of which sends its next task when it has the answer to the last one."""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, BaseTask, BaseTaskHandler, Flow, FlowStep

from ..subject import say

BATCH_SIZE = 16
SECONDS = 4.0


class Job(BaseTask):
    """A task that learns the size of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0


class Sleep(BaseTaskHandler):
    """A model that takes 10 ms, and 0.5 ms more for each task."""

    def handle(self, *tasks: Job) -> None:
        """Sleep."""
        time.sleep(0.01 + 0.0005 * len(tasks))
        for task in tasks:
            task.size = len(tasks)


async def main(nprocs: int, callers: int) -> None:
    """Say that it is ready, wait for a line, and say rate and mean size of a batch as tasks see it."""
    flow = Flow(FlowStep(Sleep(), nprocs=nprocs, batch_size=BATCH_SIZE))
    sizes: list[int] = []
    async with Aqueduct(flow).run(FastAPI()):
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        end = time.monotonic() + SECONDS

        async def call() -> None:
            while time.monotonic() < end:
                sizes.append((await flow.process(Job(), 30)).size)

        await asyncio.gather(*[call() for _ in range(callers)])
        say({"rate": len(sizes) / SECONDS, "size": sum(sizes) / len(sizes)})


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
