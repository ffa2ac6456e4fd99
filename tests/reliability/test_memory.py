"""Shared memory that runs out, is kept, dies with its owner, or lies idle."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from fastapi_aqueduct import ArenaFull, Flow, FlowStep
from fastapi_aqueduct.engine.timing import Timing

from .. import handlers as common
from ..handlers import Each, Gate, Job, Keeper
from ..support import DEADLINE, blocks, engine_of, eventually, outcome, pids, running
from . import handlers
from .support import complete

MIB = 1 << 20


def picture(value: int, size: int = 100_000) -> Any:
    return np.full(size, value, np.uint8)


def allocated() -> int:
    """Count the bytes of memory behind the memory file of the flow that runs."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "memfd:aqueduct-flow" in os.readlink(f"/proc/self/fd/{fd}"):
                return os.stat(f"/proc/self/fd/{fd}").st_blocks * 512
        except OSError:
            continue
    raise AssertionError("there is no flow")


async def test_a_worker_that_dies_returns_what_its_handler_kept() -> None:
    async with running(Flow(Keeper())) as flow:
        for number in range(3):
            await flow.process(Job(image=picture(number), keep=True, let_go=False))
        arena = flow.statistics().arena
        assert arena.blocks == 3
        assert arena.retained == arena.used >= 300_000
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: blocks(flow) == 0)
        await complete(flow, 1)
        task = await flow.process(Job(image=picture(9), keep=True, let_go=True))
        assert task.kept_sums == [900_000]
        del task
        assert flow.statistics().arena.retained == 0


async def test_a_block_that_both_sides_keep_is_free_when_the_last_lets_go() -> None:
    async with running(Flow(Keeper(), Each(common.pass_on))) as flow:
        mine = Job(image=picture(7), keep=True, let_go=False)
        kept = mine.image
        await flow.process(mine)
        assert blocks(flow) == 1  # the worker's; ours was never in shared memory
        echo = await flow.process(Job(image=picture(8), keep=False, let_go=False, payload=b"z" * 50_000))
        assert bytes(echo.payload[:1]) == b"z"
        arena = flow.statistics().arena
        assert arena.retained + arena.leased >= 100_000
        del echo
        await flow.process(Job(image=None, keep=False, let_go=True))
        await eventually(lambda: blocks(flow) == 0)
        assert (kept == 7).all()


async def test_the_figures_add_up(tmp_path: Path) -> None:
    async with running(Flow(Each(common.enter_gate_if_any, common.make_large), name="flow")) as flow:

        def check() -> Any:
            arena = flow.statistics().arena
            assert arena.used + arena.free == arena.touched <= arena.limit
            assert arena.leased <= arena.used
            assert arena.retained <= arena.used
            return arena

        assert (check().used, check().blocks) == (0, 0)
        kept = [await flow.process(Job(number=number, size=200_000)) for number in range(4)]
        arena = check()
        assert arena.blocks == 4
        assert arena.used == arena.leased >= 800_000
        kept.pop()
        assert check().blocks == 3
        kept.clear()
        arena = check()
        assert (arena.used, arena.leased) == (0, 0)
        assert arena.free >= 800_000  # kept warm


async def test_exhaustion_is_refused_and_passes(tmp_path: Path) -> None:
    """Many tasks at once, in a memory that holds a few of them: each is done or refused, and then all is well."""
    flow = Flow(FlowStep(Each(handlers.invert), nprocs=2), memory_limit=2 * MIB)
    async with running(flow):
        kept = [await flow.process(Job(image=picture(1, 600_000))) for _ in range(2)]
        ends = await asyncio.gather(
            *[outcome(flow.process(Job(image=picture(5, 500_000)), 0.5)) for _ in range(8)],
        )
        refused = [end for end in ends if isinstance(end, ArenaFull | TimeoutError)]
        done = [end for end in ends if isinstance(end, Job)]
        assert refused
        assert len(refused) + len(done) == 8
        assert all((job.image == 250).all() for job in done)
        assert all((job.image == 254).all() for job in kept)
        kept.clear()
        del ends, refused, done
        await eventually(lambda: blocks(flow) == 0)
        for value in range(10):
            job = await flow.process(Job(image=picture(value, 500_000)), DEADLINE)
            assert (job.image == 255 - value).all()
            del job


async def test_a_task_that_is_cancelled_late_and_whose_worker_dies_frees_its_blocks_once(tmp_path: Path) -> None:
    """Every way to end at the same time: a block that is freed twice would be given to two tasks."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with running(Flow(FlowStep(Each(handlers.invert, common.enter_gate_if_any), nprocs=2))) as flow:
        for round_number in range(4):
            gates = [common.Gate(tmp_path, f"{round_number}{number}") for number in range(2)]
            calls = [asyncio.create_task(outcome(flow.process(Job(image=picture(3), gate=gate), 60))) for gate in gates]
            await eventually(lambda: all(gate.is_entered() for gate in gates))  # noqa: B023
            calls[0].cancel()
            if round_number % 2:
                for pid in pids(flow):
                    os.kill(pid, signal.SIGKILL)
            for gate in gates:
                gate.open()
            await asyncio.wait(calls)
            del calls
            await complete(flow, 2)
            jobs = await asyncio.gather(*[flow.process(Job(image=picture(n), gate=None), 60) for n in range(20)])
            assert all((job.image == 255 - number).all() for number, job in enumerate(jobs))
            del jobs
    assert failures == []


async def test_memory_that_lies_idle_goes_back_to_the_system() -> None:
    async with running(Flow(FlowStep(Each(handlers.invert), nprocs=2), timing=Timing(idle_time=0.1))) as flow:
        await asyncio.gather(*[flow.process(Job(image=picture(1, 4 * MIB)), DEADLINE) for _ in range(4)])
        assert flow.statistics().arena.touched >= 4 * MIB
        assert allocated() >= 4 * MIB
        await eventually(lambda: flow.statistics().arena.touched == 0)
        await eventually(lambda: allocated() < MIB)
        job = await flow.process(Job(image=picture(1, 4 * MIB)))
        assert (job.image == 254).all()
        del job


async def test_a_shortage_in_the_server_leaves_it_the_memory_that_it_will_fill_next(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(Flow(FlowStep(Each(common.enter_gate_if_any), nprocs=2), memory_limit=8 * MIB)) as flow:
        held = asyncio.create_task(flow.process(Job(gate=gate, payload=bytes(3 * MIB)), DEADLINE))
        await eventually(gate.is_entered)
        await flow.process(Job(gate=None, payload=bytes(4 * MIB)))
        await eventually(lambda: blocks(flow) == 1)
        waiting = asyncio.create_task(flow.process(Job(gate=None, payload=bytes(6 * MIB)), DEADLINE))
        await eventually(lambda: engine_of(flow).memory.waiters.wanted)
        assert flow.statistics().arena.free >= 4 * MIB
        gate.open()
        await held
        del held  # with its result, which holds its block
        await waiting
        del waiting
