"""What a task costs the calling process while one thing grows: the queue, the workers, the steps, the payload.

    python -m tests.benchmarks.subjects.growing depth|alone|memory|memory-alone|workers|steps|payload|copy SIZE...

Says for each size the microseconds of CPU for each task, or the bytes. What is called ``alone`` are callers that wait
for asyncio and not for a flow.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..processes import Footprint
from ..subject import say, wait_for_end

TASKS = 16_000
"""Tasks that one number is measured with, where they are cheap."""

CALLERS = 32
ALONE = 1000
TIMEOUT = 300.0
QUEUE_SIZE = 1_000_000
COPIED = 512 << 20
"""Bytes that one number is measured with, where payloads are large."""

WARM_UP = 3

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"


class Task(BaseTask):
    def __init__(self, payload: Array | None = None) -> None:
        super().__init__()
        self.payload = payload
        self.result: int | None = None


class Copy(BaseTaskHandler):
    def handle(self, *tasks: Task) -> None:
        for task in tasks:
            task.result = 1


def make_flow(steps: int = 1, workers: int = 1) -> Flow:
    return Flow(*[FlowStep(Copy(), nprocs=workers) for _ in range(steps)], queue_size=QUEUE_SIZE)


async def call(flow: Flow, count: int) -> None:
    """Process one task after the other."""
    for _ in range(count):
        await flow.process(Task(), TIMEOUT)


async def cpu(work: Awaitable[object], tasks: int) -> float:
    """Wait for work and return the microseconds that this process computed for each task."""
    started = time.process_time()
    await work
    return (time.process_time() - started) / tasks * 1e6


async def cost_of_depth(depths: list[int]) -> list[float]:
    """Have so many tasks come at once, as often as it takes."""
    async with make_flow() as flow:
        await asyncio.gather(*[call(flow, 100) for _ in range(CALLERS)])
        return [await cpu(_come(flow, depth), depth * _bursts(depth)) for depth in depths]


async def _come(flow: Flow, depth: int) -> None:
    for _ in range(_bursts(depth)):
        await asyncio.gather(*[flow.process(Task(), TIMEOUT) for _ in range(depth)])


async def cost_alone(depths: list[int]) -> list[float]:
    """Have so many callers come at once that wait until all are there."""
    return [await cpu(_come_alone(depth), depth * _bursts(depth)) for depth in depths]


async def _come_alone(depth: int) -> None:
    for _ in range(_bursts(depth)):
        event = asyncio.Event()
        callers = asyncio.gather(*[event.wait() for _ in range(depth)])
        await asyncio.sleep(0)
        event.set()
        await callers


def _bursts(depth: int) -> int:
    return max(1, (TASKS if depth > 1 else ALONE) // depth)


async def memory_of_depth(depths: list[int]) -> list[float]:
    """Keep tasks in the queue of a worker that stands still, until the benchmark ends everything."""
    flow = make_flow()
    await flow.start_async()
    await call(flow, 100)
    os.kill(flow.statistics().steps[0].workers[0].pid, signal.SIGSTOP)
    return [await _memory(depth, lambda: flow.process(Task(), TIMEOUT)) for depth in depths]


async def memory_alone(depths: list[int]) -> list[float]:
    """Keep callers waiting for nothing."""
    event = asyncio.Event()
    return [await _memory(depth, event.wait) for depth in depths]


async def _memory(count: int, come: Callable[[], Coroutine[Any, Any, object]]) -> float:
    before = Footprint([os.getpid()]).private
    waiting.extend([asyncio.create_task(come()) for _ in range(count)])
    await asyncio.sleep(0.1)  # the loop comes back when all of them wait
    return (Footprint([os.getpid()]).private - before) / count


waiting: list[asyncio.Task[object]] = []


async def cost_of_workers(counts: list[int]) -> list[float]:
    """Keep each of so many workers equally busy."""
    return [await _cost(make_flow(workers=count), CALLERS * count) for count in counts]


async def cost_of_steps(counts: list[int]) -> list[float]:
    """Take tasks through so many steps."""
    return [await _cost(make_flow(steps=count), CALLERS) for count in counts]


async def _cost(flow: Flow, callers: int) -> float:
    async with flow:
        await asyncio.gather(*[call(flow, 2000 // callers + 1) for _ in range(callers)])
        each = TASKS // callers
        return await cpu(asyncio.gather(*[call(flow, each) for _ in range(callers)]), each * callers)


async def cost_of_payload(sizes: list[int]) -> list[float]:
    """Send payloads one after the other."""
    async with make_flow() as flow:
        return [await _cost_of_payload(flow, np.ones(size, np.uint8)) for size in sizes]


async def _cost_of_payload(flow: Flow, payload: Array) -> float:
    for _ in range(WARM_UP):
        await flow.process(Task(payload), TIMEOUT)
    return median([await cpu(flow.process(Task(payload), TIMEOUT), 1) for _ in range(_copies(payload))])


async def cost_of_copy(sizes: list[int]) -> list[float]:
    """Copy payloads into shared memory that has been used before, in the same conditions: each after a trip."""
    async with make_flow() as flow:
        return [await _cost_of_copy(flow, np.ones(size, np.uint8)) for size in sizes]


async def _cost_of_copy(flow: Flow, payload: Array) -> float:
    shared = np.frombuffer(mmap.mmap(-1, len(payload)), np.uint8)
    costs: list[float] = []
    for _ in range(WARM_UP + _copies(payload)):
        await flow.process(Task(payload), TIMEOUT)
        started = time.process_time()
        shared[:] = payload
        costs.append((time.process_time() - started) * 1e6)
    return median(costs[WARM_UP:])


def _copies(payload: Array) -> int:
    return min(ALONE, max(8, COPIED // len(payload)))


WORK: dict[str, Callable[[list[int]], Awaitable[list[float]]]] = {
    "depth": cost_of_depth,
    "alone": cost_alone,
    "memory": memory_of_depth,
    "memory-alone": memory_alone,
    "workers": cost_of_workers,
    "steps": cost_of_steps,
    "payload": cost_of_payload,
    "copy": cost_of_copy,
}


async def main(what: str, sizes: list[int]) -> None:
    say(await WORK[what](sizes))
    wait_for_end()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [int(size) for size in sys.argv[2:]]))
