"""Flows that are called from the threads of an application: `def` endpoints, background tasks, executors."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI

from fastapi_aqueduct import Aqueduct, BlockingCallError, Flow, FlowDep, FlowStep, flow_endpoint

from .. import handlers
from ..handlers import Each, Gate, Job
from ..support import blocks, engine_of, eventually, forked
from .handlers import Add, Adder, Held, Hold, Sum
from .support import Connection, bare_client, serving, total_application

ALL_THREADS = 40
"""Threads of FastAPI's pool."""


async def test_def_endpoints_with_loops_of_their_own_disturb_no_other_request() -> None:
    flow = forked(FlowStep(Adder(), nprocs=2))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/own")
    def own(a: int) -> int:
        task = Sum(a)
        asyncio.run(flow.process(task, 30))
        return task.result

    @app.get("/usual")
    @flow_endpoint(flow, timeout_sec=30)
    async def usual(task: Sum) -> int:
        return task.result

    async with serving(app) as server:
        requests = [server.get(path, params={"a": a}) for a in range(30) for path in ("/own", "/usual")]
        answers = await asyncio.gather(*requests)
    assert [answer.status_code for answer in answers] == [200] * 60
    assert [answer.json() for answer in answers] == [a + 10 for a in range(30) for _ in range(2)]


async def test_blocking_calls_from_all_threads_of_the_pool_at_once(tmp_path: Path) -> None:
    flow = forked(Hold())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/hold")
    def hold(gate: Path) -> str:
        flow.process_blocking(Held(gate), 30)
        return threading.current_thread().name

    async with serving(app) as server:
        requests = asyncio.gather(*[server.get(f"/hold?gate={tmp_path}") for _ in range(ALL_THREADS + 10)])
        await eventually(lambda: flow.statistics().in_flight == ALL_THREADS)
        Gate(tmp_path).open()
        answers = await requests
    assert {answer.status_code for answer in answers} == {200}
    assert "MainThread" not in {answer.json() for answer in answers}


async def test_background_tasks_and_executors_of_an_application() -> None:
    flow = forked(Each(handlers.add_one))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    numbers: list[int] = []

    def note(number: int) -> None:
        numbers.append(flow.process_blocking(Job(number=number)).number)

    async def note_async(number: int) -> None:
        numbers.append((await flow.process(Job(number=number))).number)

    @app.get("/later")
    async def later(tasks: BackgroundTasks, given: FlowDep) -> int:
        tasks.add_task(note, 1)
        tasks.add_task(note_async, 2)
        job = await asyncio.get_running_loop().run_in_executor(None, given.process_blocking, Job(number=10))
        return int(job.number)

    async with serving(app) as server:
        assert (await server.get("/later")).json() == 11
        await eventually(lambda: len(numbers) == 2)
        assert numbers == [2, 3]


async def test_a_blocking_call_in_an_async_endpoint_is_an_error_and_the_server_goes_on() -> None:
    flow = forked(Adder())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/wrong")
    async def wrong() -> str:
        with pytest.raises(BlockingCallError, match="await flow.process"):
            flow.process_blocking(Sum(1))
        return "refused"

    async with serving(app) as server:
        assert (await server.get("/wrong")).json() == "refused"


async def test_errors_of_a_call_in_a_thread_are_http_answers(tmp_path: Path) -> None:
    flow = forked(Hold())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/hold")
    def hold(gate: Path, flow: FlowDep) -> None:
        flow.process_blocking(Held(gate), 0.1)

    async with serving(app) as server:
        assert (await server.get(f"/hold?gate={tmp_path}")).status_code == 504
        Gate(tmp_path).open()


def call_blocking(flow: Flow, task: Held) -> None:
    flow.process_blocking(task, 60)


def call_in_own_loop(flow: Flow, task: Held) -> None:
    asyncio.run(flow.process(task, 60))


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("call", [call_blocking, call_in_own_loop])
async def test_a_client_that_goes_away_ends_a_call_in_a_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, call: Any, http: Any
) -> None:
    flow = forked(Hold())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/hold")
    def hold(name: str, flow: FlowDep) -> str:
        call(flow, Held(tmp_path, name))
        return "through"

    @app.post("/await")
    async def hold_in_loop(name: str, flow: FlowDep) -> None:
        await flow.process(Held(tmp_path, name), 60)

    async with serving(app, http) as server:
        first = asyncio.create_task(server.post("/hold?name=first"))
        await eventually(Gate(tmp_path, "first").is_entered)
        with caplog.at_level(logging.INFO):
            async with Connection(server) as connection:
                await connection.send("/hold?name=second", "Content-Length: 0")
                await eventually(lambda: flow.statistics().in_flight == 2)
            await eventually(lambda: flow.statistics().cancelled == 1)
            await eventually(lambda: caplog.text.count(" 499: ") == 1)
            async with Connection(server) as connection:
                await connection.send("/await?name=third", "Content-Length: 0")
                await eventually(lambda: flow.statistics().in_flight == 2)
            await eventually(lambda: caplog.text.count(" 499: ") == 2)
        Gate(tmp_path, "first").open()
        assert (await first).json() == "through"
        await eventually(lambda: blocks(flow) == 0)
    assert not any(record.exc_info for record in caplog.records)


async def test_an_upload_outside_of_the_loop_that_drives_the_flow_is_refused_and_harms_no_other() -> None:
    flow = forked(Add())
    app = total_application(flow)

    async def ask_elsewhere() -> int:
        async with bare_client(app) as elsewhere:
            return (await elsewhere.post("/total", content=b"abc")).status_code

    async with serving(app) as server:
        assert await asyncio.to_thread(lambda: asyncio.run(ask_elsewhere())) == 503
        assert (await server.post("/total", content=b"abc")).json() == sum(b"abc")


async def test_a_flow_that_ran_before_the_server_is_driven_by_the_server() -> None:
    flow = forked(Adder())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/sum")
    @flow_endpoint(flow)
    async def add(task: Sum) -> int:
        return task.result

    def begin() -> None:
        flow.start()
        assert flow.process_blocking(Sum(1)).result == 11

    await asyncio.to_thread(begin)
    async with serving(app) as server:
        assert engine_of(flow).loop is asyncio.get_running_loop()
        assert (await server.get("/sum?a=5")).json() == 15
    await flow.stop()
