"""A storm in which half of the calls are streams, whose clients are slow, or leave in the middle."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastapi_aqueduct import Flow, FlowStep, WorkerDied
from fastapi_aqueduct.engine.scheduling.stream import FlowStream

from ..handlers import Job
from . import handlers
from .storm import CALL_TIMEOUT, Storm, give_up

PARTS = ("generator", "coroutine", "rounds")
"""What the steps are called, in their order."""

Line = tuple[str, int, int, Any]


def make_steps(nprocs: int = 2, **options: Any) -> list[FlowStep]:
    """Make a step of each form, all of which send items."""
    return [
        FlowStep(handlers.Reciting("generator"), nprocs=nprocs, concurrency=4, **options),
        FlowStep(handlers.AsyncReciting("coroutine"), nprocs=nprocs, **options),
        FlowStep(handlers.RecitingInRounds("rounds"), nprocs=nprocs, batch_size=8, continuous=True, **options),
    ]


@dataclass
class StreamStorm(Storm):
    """A storm over the flow of `make_steps`.

    Args:
        streams: The part of the calls that are streams.
        longest: The most items that each step sends.

    Attributes:
        items: How many items came.
        left: How many streams were left in each way.
    """

    streams: float = 0.5
    longest: int = 150
    items: int = 0
    left: Counter[str] = field(default_factory=Counter)

    async def call_once(self, flow: Flow, chance: random.Random) -> str:
        """Make one call, and say how it has ended."""
        job = Job(
            number=chance.randrange(1 << 30),
            count=chance.randrange(self.longest),
            parts=(),
            payload=chance.randbytes(20_000),
        )
        if chance.random() < self.streams:
            return await self._stream(flow, job, chance)
        if chance.random() < self.leaves:
            return await give_up(flow.process(job, CALL_TIMEOUT), chance.uniform(0, 0.05))
        try:
            await flow.process(job, self.timeout)
        except WorkerDied:
            return "refused"
        except Exception as exc:
            return type(exc).__name__
        return "answered" if job.parts == PARTS else "wrong"

    async def _stream(self, flow: Flow, job: Any, chance: random.Random) -> str:
        way = chance.choice(("stay", "stay", "break", "cancellation", "no reference", "cycle"))
        stream: Any = flow.stream(job, self.timeout)
        if way == "cycle":
            stream.itself = stream
        is_patient = way in ("stay", "cancellation")
        reading = self._read(stream, job, 1 << 30 if is_patient else chance.randrange(1, 2 + job.count), chance)
        try:
            end = await asyncio.wait_for(reading, chance.expovariate(20) if way == "cancellation" else None)
        except TimeoutError:
            end = "cancelled"
        if end == "cancelled":
            self.left[way] += 1
            if way == "break":
                await stream.aclose()
        return end

    async def _read(self, stream: FlowStream[Line], job: Any, most: int, chance: random.Random) -> str:
        """Read items, at most some, and compare each with the one that must be in its place."""
        expected = ((part, index) for part in PARTS for index in range(job.count))
        is_slow = chance.random() < 0.2
        count = 0
        try:
            async for line in stream:
                if not _is_right(line, job, next(expected, None)):
                    return f"wrong item {line[:3]} of {job.count}"
                self.items += 1
                count += 1
                if count >= most:
                    return "cancelled"
                if is_slow:
                    await asyncio.sleep(chance.uniform(0, 0.01))
        except WorkerDied:
            return "refused"
        except Exception as exc:
            return type(exc).__name__
        if next(expected, None) is not None:
            return "cut off"
        return "answered" if job.parts == PARTS else "wrong"

    def __str__(self) -> str:
        left = ", ".join(f"{count} by {way}" for way, count in sorted(self.left.items()))
        return f"{super().__str__()}; {self.items} items; left {left}"


def _is_right(line: Line, job: Any, place: tuple[str, int] | None) -> bool:
    part, number, index, picture = line
    if (part, index) != place or number != job.number:
        return False
    if index % 4 != 3:
        return picture is None
    return bool(np.array_equal(picture, np.full(20_000, (number + index) % 251, np.uint8)))
