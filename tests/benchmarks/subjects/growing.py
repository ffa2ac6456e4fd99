"""What a task costs the calling process while one thing grows: the queue, the workers, the steps, the payload.

    python -m tests.benchmarks.subjects.growing depth|memory|workers|steps|payload SIZE...

Says for each size the microseconds of CPU for each task, or the bytes; and beside it, where there is something to
compare with, the same of callers that wait for asyncio and not for a flow, or of a plain copy.
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
from fastapi_aqueduct.asgi.process import ProcessSettings

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

Costs = tuple[float, ...]
"""What one size costs."""

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


async def cost_of_depth(depths: list[int]) -> list[Costs]:
    """Process each number of tasks at once, repeatedly; and as many callers that wait until all are there."""
    async with make_flow() as flow:
        await asyncio.gather(*[call(flow, 100) for _ in range(CALLERS)])
        return [await _costs_of_depth(flow, depth) for depth in depths]


async def _costs_of_depth(flow: Flow, depth: int) -> Costs:
    bursts = max(1, (TASKS if depth > 1 else ALONE) // depth)
    tasks = bursts * depth
    return await cpu(_come(flow, depth, bursts), tasks), await cpu(_come_alone(depth, bursts), tasks)


async def _come(flow: Flow, depth: int, bursts: int) -> None:
    for _ in range(bursts):
        await asyncio.gather(*[flow.process(Task(), TIMEOUT) for _ in range(depth)])


async def _come_alone(depth: int, bursts: int) -> None:
    for _ in range(bursts):
        event = asyncio.Event()
        callers = asyncio.gather(*[event.wait() for _ in range(depth)])
        await asyncio.sleep(0)
        event.set()
        await callers


async def memory_of_depth(depths: list[int]) -> list[Costs]:
    """Keep tasks in the queue of a worker that stands still, and callers waiting for nothing."""
    flow = make_flow()
    await flow.start_async()
    await call(flow, 100)
    (pid,) = [worker.pid for worker in flow.statistics().steps[0].workers if worker.pid]
    os.kill(pid, signal.SIGSTOP)
    never = asyncio.Event()
    return [
        (await _memory(depth, lambda: flow.process(Task(), TIMEOUT)), await _memory(depth, never.wait))
        for depth in depths
    ]


async def _memory(count: int, come: Callable[[], Coroutine[Any, Any, object]]) -> float:
    before = Footprint([os.getpid()]).private
    waiting.extend([asyncio.create_task(come()) for _ in range(count)])
    await asyncio.sleep(0.1)  # the loop comes back when all of them wait
    return (Footprint([os.getpid()]).private - before) / count


waiting: list[asyncio.Task[object]] = []


async def cost_of_workers(counts: list[int]) -> list[Costs]:
    """Keep each number of workers equally busy."""
    return [await _cost(make_flow(workers=count), CALLERS * count) for count in counts]


async def cost_of_steps(counts: list[int]) -> list[Costs]:
    """Process tasks in each number of steps, each equally busy."""
    return [await _cost(make_flow(steps=count), CALLERS * count) for count in counts]


async def _cost(flow: Flow, callers: int) -> Costs:
    async with flow:
        await asyncio.gather(*[call(flow, 2000 // callers + 1) for _ in range(callers)])
        each = TASKS // callers
        return (await cpu(asyncio.gather(*[call(flow, each) for _ in range(callers)]), each * callers),)


async def cost_of_payload(sizes: list[int]) -> list[Costs]:
    """Send payloads one after the other; copy each into shared memory that has been used before."""
    async with make_flow() as flow:
        return [await _costs_of_payload(flow, np.ones(size, np.uint8)) for size in sizes]


async def _costs_of_payload(flow: Flow, payload: Array) -> Costs:
    times = WARM_UP + _copies(payload)
    trips = [await cpu(flow.process(Task(payload), TIMEOUT), 1) for _ in range(times)]
    shared = np.frombuffer(mmap.mmap(-1, len(payload)), np.uint8)
    copies: list[float] = []
    for _ in range(times):
        await flow.process(Task(payload), TIMEOUT)  # a copy in the conditions of the others: after a trip
        started = time.process_time()
        shared[:] = payload
        copies.append((time.process_time() - started) * 1e6)
    return median(trips[WARM_UP:]), median(copies[WARM_UP:])


def _copies(payload: Array) -> int:
    return min(ALONE, max(8, COPIED // len(payload)))


WORK: dict[str, Callable[[list[int]], Awaitable[list[Costs]]]] = {
    "depth": cost_of_depth,
    "memory": memory_of_depth,
    "workers": cost_of_workers,
    "steps": cost_of_steps,
    "payload": cost_of_payload,
}


async def main(what: str, sizes: list[int]) -> None:
    ProcessSettings(adjust_malloc=False, adjust_gc=True).apply()  # a collection in a turn would be counted as its cost
    say(await WORK[what](sizes))
    wait_for_end()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [int(size) for size in sys.argv[2:]]))
