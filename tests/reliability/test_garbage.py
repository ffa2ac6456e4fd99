"""Workers that write what is no frame into their channel: a native library that mixes up descriptors, for instance."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep, WorkerDied
from fastapi_aqueduct.engine.memory.layout import Ref
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.wire.frames import Envelope, Kind, pack, pack_batches, pack_offsets

from ..handlers import Job
from ..support import DEADLINE, eventually, outcome, pids, running
from .handlers import Babbling
from .support import complete, lacking

PROMPT = Timing(frame_timeout=0.2, first_wait=0.02)
"""An unfinished frame is noticed soon, and a replacement comes soon."""


def answer(id: int = 1, number: int = 1, step: int = -1, blocks: tuple[Ref, ...] = (), status: int = 0) -> bytes:
    envelope = Envelope(id, 1e12, step, status, Encoded(b"", b"", blocks))
    return pack(Kind.ANSWERS, pack_batches([([envelope], 0.0, 0, number)]))


GARBAGE = {
    "text": b"Segmentation fault in libfoo\n" * 10,
    "too long a frame": struct.pack("<IB", 1 << 31, Kind.ANSWERS),
    "no such kind": struct.pack("<IB", 1, 77) + b"x",
    "a frame for workers": pack(Kind.STOP),
    "a plausible length": struct.pack("<IB", 100_000_000, Kind.ANSWERS),
    "answers cut off": pack(Kind.ANSWERS, b"x" * 33),
    "an answer to no task": answer(id=1 << 40),
    "an answer to no batch": answer(number=77),
    "a step that is not": answer(step=55),
    "a block that is not": answer(blocks=(Ref(1 << 60, 77),)),
    "an exception that is none": answer(status=1),
    "a block kept that is not": pack(Kind.RETAINED, pack_offsets([1 << 60])),
    "a block released that was not kept": pack(Kind.RELEASED, pack_offsets([4096])),
    "no list of blocks": pack(Kind.RELEASED, b"abc"),
    "a failure that is none": pack(Kind.FAILED, b"\x80\x05garbage"),
    "no number of records": pack(Kind.DROPPED, b"abc"),
}

NO_RECORD = pack(Kind.LOG, b"\x80\x05garbage")
"""A frame that is read later than the answers that follow it."""


async def test_a_worker_that_writes_garbage_is_killed_and_replaced(subtests: pytest.Subtests) -> None:
    escaped: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: escaped.append(context))
    step = FlowStep(Babbling(), max_retries=0)
    async with running(Flow(step, FlowStep(Babbling()), timing=PROMPT, mp_start_method="forkserver")) as flow:
        for name, garbage in GARBAGE.items():
            with subtests.test(garbage=name):
                (before,) = pids(flow)
                job = Job(number=1, garbage=garbage)
                died = await asyncio.wait_for(outcome(flow.process(job, 300)), DEADLINE)
                assert isinstance(died, WorkerDied), repr(died)
                assert "it sent an invalid message" in str(died)
                await eventually(lambda: pids(flow) not in ([], [before]))  # noqa: B023
                assert lacking(flow) == 0
                assert (await flow.process(Job(number=1, garbage=b""), DEADLINE)).number == 3
        (before,) = pids(flow)
        await asyncio.wait_for(outcome(flow.process(Job(number=1, garbage=NO_RECORD), 300)), DEADLINE)
        await eventually(lambda: pids(flow) not in ([], [before]))
        await complete(flow, 1)
    assert escaped == []


async def test_answers_that_end_up_in_an_unfinished_frame_do_not_keep_it_alive() -> None:
    """They count as its content, and the worker seems to be silent. What it answers is small, however often."""
    garbage = struct.pack("<IB", 100_000_000, Kind.ANSWERS)
    step = FlowStep(Babbling(), max_retries=5)
    async with running(Flow(step, timing=PROMPT, mp_start_method="forkserver")) as flow:
        (before,) = pids(flow)
        jobs = [Job(number=1, garbage=garbage if not number else b"") for number in range(40)]
        ends = await asyncio.gather(*[outcome(flow.process(job, DEADLINE)) for job in jobs])
        assert sum(isinstance(end, Job) for end in ends) >= 39, ends
        assert pids(flow) != [before]


async def test_a_large_frame_that_takes_long_is_no_garbage() -> None:
    """The event loop reads it piece by piece, for longer than the time in which it must go on."""
    async with running(Flow(FlowStep(Babbling()), timing=Timing(frame_timeout=0.05))) as flow:
        before = pids(flow)
        job = Job(number=1, garbage=b"", text="x" * 60_000_000)
        assert (await flow.process(job, DEADLINE)).number == 2
        assert pids(flow) == before
