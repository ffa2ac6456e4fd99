"""The plain path: one no-op step, with the work of the API process and of the worker in one process.

    python -m tests.benchmarks.subjects.plain_path clock   prints the processor time of a task, in microseconds
    python -m tests.benchmarks.subjects.plain_path marks   runs under a tool that counts instructions between marks

It goes through the dispatcher, the scheduler, the channel and the worker's loop; `Flow` and HTTP are left out.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time

from fastapi_aqueduct import BaseTask, BaseTaskHandler, FlowStep

from ..subject import say
from .inprocess import LocalFlow
from .micro import CLOCK_STEP, TOGETHER, count

TASKS = 6400
"""Tasks in one measurement of the processor time."""

ROUNDS = 15


class Task(BaseTask):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class NoOp(BaseTaskHandler):
    def handle(self, task: Task) -> None:
        """Do nothing."""


class PlainPath:
    """Sends tasks through a flow of one step.

    Args:
        runner: Runs the event loop.
        callers: Tasks in flight at the same time.
    """

    def __init__(self, runner: asyncio.Runner, callers: int) -> None:
        self._runner = runner
        self._callers = callers
        self._flow = runner.run(_start())

    def run(self, tasks: int) -> None:
        """Process ``tasks`` tasks, a multiple of the number of callers."""
        self._runner.run(self._drive(tasks // self._callers))

    async def _drive(self, count: int) -> None:
        await asyncio.gather(*[self._call(count) for _ in range(self._callers)])

    async def _call(self, count: int) -> None:
        for number in range(count):
            await self._flow.process(Task(number))


async def _start() -> LocalFlow:
    flow = LocalFlow(FlowStep(NoOp()))
    await flow.start()
    return flow


def clock(paths: dict[str, PlainPath]) -> None:
    """Print the least processor time of a task, in microseconds."""
    say({name: min(_microseconds(path) for _ in range(ROUNDS)) for name, path in paths.items()})


def _microseconds(path: PlainPath) -> float:
    started = time.process_time()
    path.run(TASKS)
    return 1e6 * (time.process_time() - started) / TASKS


def main(way: str) -> None:
    # A clock that goes by the same time at each look: what the engine decides by the clock is the same in every run.
    time.monotonic = itertools.count(1000.0, CLOCK_STEP).__next__
    with asyncio.Runner() as runner:
        paths = {
            "one no-op task at a time": PlainPath(runner, 1),
            f"{TOGETHER} no-op tasks at a time": PlainPath(runner, TOGETHER),
        }
        if way == "clock":
            clock(paths)
        else:
            count({name: (path.run, 10 * TOGETHER) for name, path in paths.items()})
        sys.stdout.flush()
        os._exit(0)  # nothing of this has to be put away


if __name__ == "__main__":
    main(sys.argv[1])
