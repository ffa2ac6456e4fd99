"""Faults of worker processes, and what an endpoint answers meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, StartTimeout, UnknownStep, UsageError, flow_endpoint
from fastapi_aqueduct.testing import client, faults, inline

from ..support import DEADLINE, eventually, pids
from .handlers import Add, Adder, Picture, Sum


async def test_each_fault_has_its_status_and_passes() -> None:
    numbers = Flow(FlowStep(Adder(), name="adder"), name="numbers")
    pictures = Flow(Add(), name="pictures", memory_limit=1 << 24)
    app = FastAPI(lifespan=Aqueduct(numbers, pictures).lifespan)

    @app.post("/sum")
    @flow_endpoint(numbers, timeout_sec=0.5)
    async def add(task: Sum) -> int:
        return task.result

    @app.post("/picture")
    @flow_endpoint(pictures, timeout_sec=0.5)
    async def picture(task: Picture) -> int:
        return task.total

    async with client(app) as http:

        async def status() -> int:
            code: int = (await http.post("/sum?a=1")).status_code
            return code

        async def passes() -> None:
            async with asyncio.timeout(DEADLINE):
                while await status() != 200:
                    await asyncio.sleep(0.01)

        await passes()
        (pid,) = pids(numbers)
        await faults.kill(numbers, "adder")
        assert await status() == 503
        await passes()
        assert pids(numbers) != [pid]

        with faults.hang(numbers, "step1_Adder"):
            assert await status() == 504
        await passes()

        with faults.slow_start(numbers, "adder", 60.0):
            await faults.kill(numbers, "adder")
            await eventually(lambda: any(worker.pid for worker in numbers.statistics().steps[0].workers))
            assert numbers.statistics().steps[0].ready_workers == 0
            assert await status() == 503
        await passes()

        body = b"\1" * 100_000
        with faults.full_memory(pictures):
            assert (await http.post("/picture", content=body)).status_code == 503
        async with asyncio.timeout(DEADLINE):
            while (answer := await http.post("/picture", content=body)).status_code != 200:
                await asyncio.sleep(0.01)
        assert answer.json() == 100_000

        with pytest.raises(UnknownStep):
            await faults.kill(numbers, "ocr")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_a_slow_start_can_be_too_slow(method: Any) -> None:
    """The worker is killed, also a fork that does not lead its process group yet."""
    flow = Flow(FlowStep(Adder(), name="adder"), start_timeout=0.1, mp_start_method=method)
    with faults.slow_start(flow, "adder", 60.0):
        with pytest.raises(StartTimeout, match="adder"):
            await flow.start_async()


async def test_without_processes_there_are_no_faults() -> None:
    async with inline(Flow(Adder())) as flow:
        with pytest.raises(UsageError, match="no worker processes"):
            await faults.kill(flow, "step1_Adder")
