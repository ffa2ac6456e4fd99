"""API processes that send what makes no sense, or end at any moment: the others and the pipeline go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import select
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.engine.memory.layout import Ref
from fastapi_aqueduct.engine.shared.client import RemoteEngine
from fastapi_aqueduct.engine.shared.handshake import ClientEnd
from fastapi_aqueduct.engine.shared.requests import Request
from fastapi_aqueduct.engine.shared.status import GuestReport
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.wire.frames import Envelope, Kind, Status, pack, pack_batches, pack_offsets

from .. import handlers
from ..handlers import Each, Gate, Job
from ..support import DEADLINE, engine_of, eventually, outcome, running
from .pipeline import in_a_pipeline, pipeline_of

EMPTY = Encoded(b"", b"", ())


def tasks(*envelopes: Envelope) -> bytes:
    """Return a frame with tasks."""
    return pack(Kind.TASKS, pack_batches([([envelope], 0.0, 0, 0) for envelope in envelopes]))


def task(number: int = 1, step: int = 0, content: Encoded = EMPTY) -> Envelope:
    """Return a task as it travels."""
    return Envelope(number, time.monotonic() + 60, step, Status.OK, content)


NONSENSE = {
    "no frames": b"\xff" * 64,
    "an unknown kind": b"\0\0\0\0\xfa",
    "a kind that only a worker sends": pack(Kind.ANSWERS, b""),
    "a step that does not exist": tasks(task(step=7)),
    "a task twice": tasks(task(), task()),
    "marks that are none": tasks(task()._replace(marks=b"x")),
    "cut off tasks": pack(Kind.TASKS, b"\1\2\3"),
    "a block that does not exist": tasks(task(content=Encoded(b"", b"", (Ref(1 << 40, 10),)))),
    "a block that was not lent": pack(Kind.RELEASED, pack_offsets([4096, 1])),
    "half a pair of what is returned": pack(Kind.RELEASED, pack_offsets([4096])),
    "half a pair of what was consumed": pack(Kind.GRANT, pack_offsets([1])),
    "three numbers of what was consumed": pack(Kind.GRANT, pack_offsets([1, 2, 3])),
    "a task that never ends": tasks(task()._replace(deadline=float("nan"))),
    "a task with the number of another process": tasks(task(1 << 40)),
    "a task with an outcome": tasks(task()._replace(status=Status.ERROR)),
    "a level that does not exist": pack(Kind.TASKS, pack_batches([([task()], 0.0, 9, 0)])),
    "a wait that makes no sense": pack(Kind.TASKS, pack_batches([([task()], -1.0, 0, 0)])),
    "counts that are none": pack(Kind.STATUS, pickle.dumps(GuestReport(uploads="many"))),  # type: ignore[arg-type]
    "levels that are none": pack(Kind.LEVELS, pickle.dumps((0, {"root": "loud"}))),
    "a request without a number": pack(Kind.CALL, pickle.dumps(Request([], "restart"))),  # type: ignore[arg-type]
}


@contextlib.asynccontextmanager
async def beside(flow: Flow) -> AsyncIterator[ClientEnd]:
    """Connect by hand to the pipeline that a flow runs in."""
    engine = flow._lifecycle.engine
    assert isinstance(engine, RemoteEngine)
    pipeline = pipeline_of(engine)
    end = await asyncio.to_thread(pipeline.connect, time.monotonic() + DEADLINE)
    await eventually(lambda: len(pipeline.gateway.guests) == 2)
    try:
        yield end
    finally:
        with contextlib.suppress(OSError):
            end.sock.close()
        for fd in (end.pidfd, end.memory_fd, end.board_fd):
            os.close(fd)
        await eventually(lambda: len(pipeline.gateway.guests) == 1)


def has_ended(sock: socket.socket) -> bool:
    """Tell whether the other side has closed a connection."""
    while select.select([sock], [], [], 0)[0]:
        try:
            if not sock.recv(1 << 16):
                return True
        except OSError:
            return True
    return False


@pytest.mark.parametrize("what", NONSENSE)
async def test_nonsense_ends_the_connection_of_its_sender_only(what: str) -> None:
    flow = Flow(Each(handlers.add_one, handlers.sum_up))
    with in_a_pipeline(flow):
        async with running(flow):
            async with beside(flow) as end:
                end.sock.sendall(NONSENSE[what])
                await eventually(lambda: has_ended(end.sock))
                answered = await flow.process(Job(number=1, image=np.ones(50_000, np.uint8)))
                assert (answered.number, answered.total) == (2, 50_000)
                del answered


async def test_what_a_vanished_process_has_sent_is_free_and_its_tasks_are_withdrawn(tmp_path: Path) -> None:
    flow = Flow(FlowStep(Each(handlers.enter_gate_if_any), nprocs=1), memory_limit=8 << 20)
    with in_a_pipeline(flow):
        async with running(flow):
            gate = Gate(tmp_path)
            held = asyncio.ensure_future(flow.process(Job(gate=gate), 60))
            await eventually(gate.is_entered)
            engine = engine_of(flow)
            async with beside(flow) as end:
                start = end.welcome.layout.start(end.welcome.region)
                blocks = [Ref(start + (number << 16), 30_000) for number in range(20)]
                contents = [Encoded(b"", b"", (block,)) for block in blocks]
                end.sock.sendall(tasks(*[task(number, content=content) for number, content in enumerate(contents, 1)]))
                await eventually(lambda: engine.dispatcher.in_flight == 21)
                assert len(engine.memory.ledger.held_blocks()) == 20
            await eventually(lambda: engine.dispatcher.in_flight == 1)
            assert not engine.memory.ledger.held_blocks()
            gate.open()
            await held


async def test_the_region_of_a_process_that_has_gone_serves_the_next(tmp_path: Path) -> None:
    flow = Flow(Each(handlers.add_one))
    with in_a_pipeline(flow):
        async with running(flow):
            regions = set()
            for _ in range(20):
                async with beside(flow) as end:
                    regions.add(end.welcome.region)
            assert len(regions) <= 8
            assert (await flow.process(Job(number=1))).number == 2


async def test_no_more_processes_can_join_than_there_are_regions() -> None:
    flow = Flow(Each(handlers.add_one))
    with in_a_pipeline(flow):
        async with running(flow), contextlib.AsyncExitStack() as stack:
            engine = flow._lifecycle.engine
            assert isinstance(engine, RemoteEngine)
            pipeline = pipeline_of(engine)
            ends = [await asyncio.to_thread(pipeline.connect, time.monotonic() + DEADLINE) for _ in range(7)]
            for end in ends:
                stack.callback(end.close)
            refused = await outcome(asyncio.to_thread(pipeline.connect, time.monotonic() + DEADLINE))
            assert "serves 8 API processes already" in str(refused)
            assert (await flow.process(Job(number=1))).number == 2
