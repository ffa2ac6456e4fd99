"""How fast a death is seen and made good, and whether memory stays flat."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep, WorkerDied

from .. import handlers as common
from ..handlers import Each, Gate, Job
from ..support import blocks, eventually, outcome, pids, running
from .conftest import Note
from .support import complete, descriptors, resident

MIB = 1 << 20


async def detect(flow: Flow, gate: Gate) -> float:
    """Kill a worker that holds a task; return the seconds until the caller knows."""
    held = asyncio.create_task(outcome(flow.process(Job(gate=gate), 300)))
    await eventually(gate.is_entered)
    (victim,) = [worker.pid for worker in flow.statistics().steps[0].workers if worker.pid and worker.in_flight]
    started = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    assert isinstance(await held, WorkerDied)
    return time.monotonic() - started


async def test_a_death_is_seen_at_once(tmp_path: Path) -> None:
    async with running(Flow(FlowStep(Each(common.enter_gate), nprocs=2, max_retries=0))) as flow:
        times = []
        for number in range(5):
            times.append(await detect(flow, Gate(tmp_path, str(number))))
            await complete(flow, 2)
        print(times)
        assert statistics.median(times) < 0.5


@pytest.mark.long
@pytest.mark.parametrize("nprocs", [1, 4])
async def test_detection_and_replacement(tmp_path: Path, note_figure: Note, nprocs: int) -> None:
    """With the policy as it is: a wait of a quarter to half a second before a first replacement."""
    seen, replaced = [], []
    for number in range(20):
        step = FlowStep(Each(common.enter_gate), nprocs=nprocs, max_retries=0)
        async with running(Flow(step)) as flow:
            started = time.monotonic()
            seen.append(await detect(flow, Gate(tmp_path, str(number))))
            await complete(flow, nprocs)
            replaced.append(time.monotonic() - started)
    for name, values in (("death to error at the caller", seen), ("death to replacement ready", replaced)):
        note_figure(
            f"{name}, {nprocs} workers",
            f"median {statistics.median(values) * 1000:.1f} ms, longest {max(values) * 1000:.1f} ms",
        )
    assert statistics.median(seen) < 0.05


@pytest.mark.long
async def test_memory_is_flat_over_200000_requests(note_figure: Note) -> None:
    steps = FlowStep(Each(common.add_one), nprocs=2), FlowStep(Each(common.double), nprocs=2, batch_size=8)
    async with running(Flow(*steps)) as flow:
        await soak(flow, 20_000)
        before = Footprint(flow)
        started = time.monotonic()
        await soak(flow, 200_000)
        seconds = time.monotonic() - started
        after = Footprint(flow)
        note_figure("200,000 requests", f"{200_000 / seconds:.0f} a second")
        note_figure("  before", str(before))
        note_figure("  after", str(after))
        assert flow.statistics().completed == 220_000
        assert after.descriptors == before.descriptors
        assert after.arena <= before.arena + MIB
        assert after.server < before.server + 8 * MIB
        assert all(new < old + 4 * MIB for new, old in zip(after.workers, before.workers, strict=True))


class Footprint:
    """What a flow takes of the machine."""

    def __init__(self, flow: Flow) -> None:
        assert blocks(flow) == 0
        self.server = resident(os.getpid())
        self.workers = [resident(pid) for step in range(2) for pid in pids(flow, step)]
        self.arena = flow.statistics().arena.touched
        self.descriptors = descriptors()

    def __str__(self) -> str:
        workers = " ".join(f"{size / MIB:.1f}" for size in self.workers)
        return (
            f"server {self.server / MIB:.1f} MiB, workers {workers} MiB, "
            f"shared memory {self.arena / MIB:.1f} MiB, {self.descriptors} descriptors"
        )


async def soak(flow: Flow, count: int) -> None:
    """Make requests, every tenth with a picture, from many clients."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            image = np.full(30_000, number % 251, np.uint8) if number % 10 == 0 else None
            job = await flow.process(Job(number=number, image=image), 60)
            assert job.number == (number + 1) * 2
            if image is not None:
                assert job.image[0] == job.image[-1] == number % 251

    await asyncio.gather(*[client() for _ in range(64)])
