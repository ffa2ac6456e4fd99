"""Blocks of shared memory between two API processes and a pipeline: none is lost, none is freed too early."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.engine.memory.banker import ArrivalCap
from fastapi_aqueduct.engine.memory.block_writer import BlockWriter
from fastapi_aqueduct.engine.options import EngineOptions
from fastapi_aqueduct.engine.shared.client import RemoteEngine

from ..handlers import Job
from ..support import DEADLINE, blocks, engine_of, eventually
from .handlers import Mix
from .pipeline import LoopPipeline

MIB = 1 << 20

SIZES = (10, 17_000, 70_000)


@contextlib.asynccontextmanager
async def two_processes() -> AsyncIterator[tuple[Flow, Flow]]:
    """Run two flows that are one for the pipeline, as those of two API processes."""
    flows = [Flow(FlowStep(Mix(), nprocs=2, concurrency=8), memory_limit=8 * MIB) for _ in range(2)]
    pipeline = LoopPipeline(flows[0]._lifecycle.options)

    def build(options: EngineOptions) -> RemoteEngine:
        return RemoteEngine(replace(options), pipeline)

    with flows[0]._lifecycle.built_by(build), flows[1]._lifecycle.built_by(build):
        await asyncio.gather(*[flow.start_async() for flow in flows])
        yield flows[0], flows[1]
        await asyncio.gather(*[flow.stop() for flow in flows])


class Caller:
    """Sends tasks at random, checks what comes back, and keeps some of it for a while.

    Args:
        flow: The flow.
        seed: Of all that is random.
    """

    def __init__(self, flow: Flow, seed: int) -> None:
        self._flow = flow
        self._random = random.Random(seed)
        self._kept: list[tuple[Any, int]] = []

    async def run(self, count: int) -> None:
        """Send tasks one after the other."""
        for _ in range(count):
            await self._send()
            self._check_kept()
        self._kept.clear()

    async def _send(self) -> None:
        random_ = self._random
        if self._kept and random_.random() < 0.4:
            image, value = random_.choice(self._kept)  # what came back is sent again, while it is kept
        else:
            value = random_.randrange(200)
            image = np.full(random_.choice(SIZES), value, np.uint8)
        action = random_.choice(["pass", "replace", "drop", "fail", "slice"])
        job: Any = Job(image=image, action=action, items=random_.choice([0, 0, 3]), item_size=random_.choice(SIZES))
        total = int(image.sum())
        del image
        way = random_.choice(["process", "stream", "leave", "cancel"])
        with contextlib.suppress(ValueError, asyncio.CancelledError):
            await getattr(self, f"_{way}")(job)
            assert job.total == total
            if job.image is not None and random_.random() < 0.5:
                self._kept.append((job.image, value + (action == "replace")))
                del self._kept[:-4]

    async def _process(self, job: Any) -> None:
        await self._flow.process(job, 60)

    async def _stream(self, job: Any) -> None:
        first = job.image[:1].copy()
        number = 0
        async for item in self._flow.stream(job, 60):
            assert len(item) == 0 or item[0] == (number if number % 2 else first[0])
            number += 1
            if self._random.random() < 0.3:
                self._kept.append((item[:], int(item[0]) if len(item) else 0))

    async def _leave(self, job: Any) -> None:
        async with self._flow.stream(job, 60) as items:
            async for _ in items:
                break
        raise asyncio.CancelledError

    async def _cancel(self, job: Any) -> None:
        task = asyncio.ensure_future(self._flow.process(job, 60))
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)
        task.cancel()
        await task
        raise asyncio.CancelledError

    def _check_kept(self) -> None:
        for image, value in self._kept:
            assert (image == value).all()


@pytest.mark.parametrize("seed", range(3))
async def test_every_block_goes_back_to_its_owner(seed: int) -> None:
    async with two_processes() as flows:
        callers = [Caller(flow, 100 * seed + number) for number, flow in enumerate([*flows, *flows, *flows])]
        await asyncio.gather(*[caller.run(40) for caller in callers])
        del callers
        engine = engine_of(flows[0])
        # All of them are asked: one that does nothing returns what its callers have dropped when it is asked or idle.
        await eventually(lambda: max(blocks(flow) for flow in flows) == 0)
        await eventually(lambda: not engine.memory.ledger.held_blocks() and engine.dispatcher.in_flight == 0)
        for guest in engine_of(flows[0]).dispatcher.guests:
            assert not guest._lent and not guest._sent  # type: ignore[attr-defined]


async def test_a_body_of_unknown_length_finds_a_place_beside_a_small_block_that_is_held() -> None:
    """Memory is there for it: it must not wait for addresses."""
    async with two_processes() as (flow, _):
        with receive(flow, 4 * MIB) as first:
            assert first.try_write(bytes(4 * MIB))
            large = first.finish()
        with receive(flow, 20_000) as second:
            assert second.try_write(bytes(20_000))
            small = second.finish()
        del large
        with receive(flow, None) as body:
            for _ in range(6):
                await body.write(bytes(MIB))
            view = body.finish()
        assert (len(view), len(small)) == (6 * MIB, 20_000)
        del view, small, first, second, body
        await eventually(lambda: blocks(flow) == 0)


def receive(flow: Flow, size: int | None) -> BlockWriter:
    """Expect a body; of unknown length it may have 6 MiB."""
    writer = flow.receive(size, 6 * MIB, DEADLINE, ArrivalCap(size=8 * MIB))
    writer.begin()
    return writer
