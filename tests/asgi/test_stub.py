"""Endpoints whose flow is answered by a function of the test, or whose handlers run in its process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, Flow, FlowDep, FlowState, FlowStream, flow_endpoint
from fastapi_aqueduct.testing import client, inline, request_then_disconnect, stub

from ..support import eventually, forked
from .handlers import Add, Adder, NoModel, Picture, Sum


def make_app() -> tuple[FastAPI, Flow]:
    flow = forked(NoModel(), Adder(), queue_size=3)
    aqueduct = Aqueduct(flow)
    app = FastAPI(lifespan=aqueduct.lifespan)
    aqueduct.install(app)

    @app.post("/sum")
    @flow_endpoint(flow, timeout_sec=1)
    async def add(task: Sum) -> int:
        return task.result

    @app.post("/later")
    @flow_endpoint(flow, timeout_sec=30)
    async def later(task: Sum) -> int:
        return task.result

    @app.post("/blocking")
    def blocking(flow: FlowDep) -> int:
        return flow.process_blocking(Sum(1)).result

    @app.post("/picture")
    @flow_endpoint(flow)
    async def picture(task: Picture) -> list[Any]:
        return [task.total, task.kind]

    @app.post("/items")
    @flow_endpoint(flow)
    async def items(task: Sum, items: FlowStream[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item

    return app, flow


async def test_a_function_answers_in_place_of_handlers_that_could_not_start() -> None:
    app, flow = make_app()

    def answer(task: Any) -> None:
        if isinstance(task, Picture):
            assert task.image is not None
            task.total, task.kind = len(task.image), type(task.image).__name__
        elif task.a < 0:
            raise ValueError("negative")
        else:
            task.result = task.a + task.b

    with stub(flow, answer):
        async with client(app, raise_app_exceptions=False) as http:
            assert (await http.post("/sum?a=1")).json() == 11
            assert (await http.post("/sum?a=-1")).status_code == 500
            assert (await http.post("/sum?a=none")).status_code == 422
            assert (await http.post("/blocking")).json() == 11
            assert (await http.post("/picture", content=b"x" * 100_000)).json() == [100_000, "memoryview"]
            assert (await http.get("/ready")).status_code == 200
            statistics = flow.statistics()
            assert [(step.name, step.ready_workers) for step in statistics.steps] == [(name, 1) for name in flow.steps]
            assert (statistics.completed, statistics.failed) == (3, 1)
    assert flow.state is FlowState.STOPPED


async def test_a_coroutine_shares_the_event_loop_of_the_test() -> None:
    app, flow = make_app()
    started, go_on, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(task: Sum) -> None:
        started.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        task.result = 7

    async with stub(flow, answer), client(app) as http:
        assert (await http.post("/sum?a=1")).status_code == 504
        await cancelled.wait()
        started.clear()
        request = asyncio.create_task(http.post("/later?a=1"))
        await started.wait()
        go_on.set()
        assert (await request).json() == 7
        go_on.clear()
        started.clear()
        cancelled.clear()
        left = await request_then_disconnect(app, "POST", "/later?a=1", until=started.wait())
        assert not left.is_complete
        await cancelled.wait()  # the client has left
        cancelled.clear()
        with pytest.raises(TimeoutError):
            await request_then_disconnect(app, "POST", "/later?a=1", until=asyncio.wait_for(go_on.wait(), 0.01))
        await cancelled.wait()
        left = await request_then_disconnect(app, "POST", "/sum", body=[], until=asyncio.Event().wait())
        assert left.status == 422


async def test_what_it_yields_are_the_items_of_a_stream() -> None:
    app, flow = make_app()
    closed = asyncio.Event()

    def count(task: Sum) -> Iterator[int]:
        yield from range(task.a)

    async def forever(task: Sum) -> AsyncIterator[int]:
        try:
            for number in range(1_000_000):
                yield number
                await asyncio.sleep(0)
        finally:
            closed.set()

    async with stub(flow, count), client(app) as http:
        assert (await http.post("/items?a=3")).text.split() == ["0", "1", "2"]
    async with stub(flow, forever), client(app):
        left = await request_then_disconnect(app, "POST", "/items?a=1", read=6)
        assert (left.status, left.is_complete) == (200, False)
        assert left.body.startswith(b"0\n1\n2\n")
        await eventually(closed.is_set)


@pytest.mark.parametrize("is_whole", [True, False])
async def test_uploads_reach_handlers_of_this_process_read_only(is_whole: bool) -> None:
    flow = forked(Add())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    totals = []

    @app.post("/")
    @flow_endpoint(flow)
    async def add(task: Picture) -> list[Any]:
        totals.append(task.total)
        return [task.total, task.kind]

    with inline(flow):
        async with client(app) as http:
            body = [b"\1" * 50_000, b"\1" * 50_000]
            if is_whole:
                response = await http.post("/", content=b"".join(body))
                assert response.json() == [100_000, "memoryview True"]
            else:
                left = await request_then_disconnect(app, "POST", "/", body=body, is_whole=False)
                assert left.status is None
                assert totals == []
                await eventually(lambda: flow.statistics().arena.receiving == 0)
