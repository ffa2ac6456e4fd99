"""The questions of the manual of the package ``aqueduct`` that it leaves without an answer."""

from __future__ import annotations

import asyncio
import os
import signal

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.testing import inline

from ..support import eventually, forked, pids, running
from .integrated import Handler, Task, Versioned


async def test_what_happens_if_one_of_the_subprocesses_is_dead() -> None:
    async with running(forked(FlowStep(Handler(), nprocs=2))) as flow:
        dead = pids(flow)[0]
        os.kill(dead, signal.SIGKILL)
        await eventually(lambda: dead not in pids(flow))
        assert (await flow.process(Task())).result == "done"
        await eventually(lambda: len(pids(flow)) == 2)


async def test_can_i_replace_the_model_while_the_service_is_working_without_stopping_it() -> None:
    with inline(flow := Flow(Versioned("first"))):
        async with running(flow):
            results = []
            is_replaced = asyncio.Event()

            async def serve() -> None:
                while not is_replaced.is_set():
                    results.append((await flow.process(Task())).result)

            serving = asyncio.create_task(serve())
            await eventually(lambda: results)
            await flow.steps["step1_Versioned"].replace(Versioned("second"))
            is_replaced.set()
            await serving
            assert (await flow.process(Task())).result == "second"
            assert results[0] == "first"
            assert set(results) <= {"first", "second"}
