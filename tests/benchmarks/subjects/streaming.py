"""Streams of a flow without HTTP, for each form of handler; says what a token costs the two processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from ..processes import MIB, anonymous_files, processor_time
from ..servers.token_model import MAX_BATCH, TOKEN
from ..subject import say, wait_for_end

TOKENS = 32_000
LARGE_ITEMS = 600
LARGE_SIZE = 1_000_000
LOOK_EVERY = 10


class Generation(BaseTask):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count


class Generate(BaseTaskHandler):
    def handle(self, task: Generation) -> Iterator[str]:
        for _ in range(task.left):
            yield TOKEN


class GenerateInLoop(BaseTaskHandler):
    async def handle(self, task: Generation) -> AsyncIterator[str]:
        for _ in range(task.left):
            yield TOKEN


class Emit(BaseTaskHandler):
    def handle(self, *tasks: Generation) -> None:
        for task in tasks:
            for _ in range(task.left):
                task.emit(TOKEN)


class Rounds(BaseTaskHandler):
    def handle(self, *tasks: Generation) -> None:
        for live in self.rounds(tasks):
            for task in live:
                task.emit(TOKEN)
                task.left -= 1
                if not task.left:
                    task.finish()


class Large(BaseTaskHandler):
    def handle(self, task: Generation) -> Iterator[bytes]:
        for number in range(task.left):
            yield bytes([number % 256]) * LARGE_SIZE


class Form(NamedTuple):
    """A form of handler under a number of streams.

    Attributes:
        name: As it is shown.
        step: The step of the flow.
        streams: How many at once.
        tokens: How many in all.
    """

    name: str
    step: FlowStep
    streams: int
    tokens: int = TOKENS


FORMS = [
    Form("a generator", FlowStep(Generate()), 1),
    Form(f"{MAX_BATCH} generators that take turns", FlowStep(Generate(), concurrency=MAX_BATCH), MAX_BATCH),
    Form("an asynchronous generator", FlowStep(GenerateInLoop()), 1),
    Form(f"{MAX_BATCH} asynchronous generators", FlowStep(GenerateInLoop(), concurrency=MAX_BATCH), MAX_BATCH),
    Form("rounds of one task", FlowStep(Rounds()), 1),
    Form(f"rounds of {MAX_BATCH} tasks", FlowStep(Rounds(), batch_size=MAX_BATCH), MAX_BATCH),
    Form("continuous, one task", FlowStep(Rounds(), batch_size=MAX_BATCH, continuous=True), 1),
    Form(f"continuous, {MAX_BATCH} tasks", FlowStep(Rounds(), batch_size=MAX_BATCH, continuous=True), MAX_BATCH),
    Form("emit in a plain call", FlowStep(Emit()), 1, TOKENS // 8),
]


async def measure(form: Form) -> dict[str, float]:
    """Return tokens per second, and microseconds per token of the API process and of the worker."""
    async with Flow(form.step) as flow:
        await _read_all(flow, form.streams, form.tokens // 8)  # the first calls are slower
        worker = flow.statistics().steps[0].workers[0].pid
        assert worker is not None
        pids = os.getpid(), worker
        before, started = [processor_time([pid]) for pid in pids], time.perf_counter()
        count = await _read_all(flow, form.streams, form.tokens)
        seconds = time.perf_counter() - started
        after = [processor_time([pid]) for pid in pids]
    api, work = ((two - one) / count * 1e6 for one, two in zip(before, after, strict=True))
    return {"rate": count / seconds, "api": api, "worker": work}


async def _read_all(flow: Flow, streams: int, tokens: int) -> int:
    return sum(await asyncio.gather(*[_read(flow, tokens // streams) for _ in range(streams)]))


async def _read(flow: Flow, count: int) -> int:
    read = 0
    async for _ in flow.stream(Generation(count), timeout_sec=60):
        read += 1
    if read != count:
        raise RuntimeError(f"{read} of {count} tokens came")
    return read


async def measure_large() -> dict[str, float]:
    """Return the most MiB of shared memory while large items pass."""
    peak = read = 0
    async with Flow(Large()) as flow:
        async for item in flow.stream(Generation(LARGE_ITEMS), timeout_sec=60):
            if len(item) != LARGE_SIZE or item[-1] != read % 256:
                raise RuntimeError(f"item {read} is not what was sent")
            read += 1
            if not read % LOOK_EVERY:
                peak = max(peak, sum(anonymous_files(os.getpid()).values()))
    if read != LARGE_ITEMS:
        raise RuntimeError(f"{read} of {LARGE_ITEMS} items came")
    return {"memory": peak / MIB}


async def main() -> None:
    found = [{"name": form.name, **await measure(form)} for form in FORMS]
    say([*found, {"name": "a generator of large items", **await measure_large()}])
    wait_for_end()


if __name__ == "__main__":
    asyncio.run(main())
