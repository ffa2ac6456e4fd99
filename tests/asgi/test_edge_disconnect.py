"""Clients that leave, in every state of a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse

from fastapi_aqueduct import Aqueduct, FlowDep, FlowTask, SharedResponse, flow_endpoint
from fastapi_aqueduct.asgi.disconnect import ARM_DELAY

from ..handlers import Gate
from ..support import blocks, eventually, forked
from .edge_handlers import Paint, Pixels
from .handlers import Held, HeldPicture, Hold
from .support import Connection, serving, taken

BODY = bytes(100_000)


def add_middleware(app: FastAPI) -> None:
    @app.middleware("http")
    async def middleware(request: Request, call_next: Any) -> Any:
        return await call_next(request)


@pytest.fixture(params=["httptools", "h11"])
def http(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "middleware"])
def has_middleware(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Fail a test in whose log there is a traceback."""
    caplog.set_level(logging.INFO)
    yield caplog
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


@pytest.mark.parametrize("state", ["queued", "in a worker"])
@pytest.mark.parametrize("way", ["flow_endpoint", "FlowTask", "FlowDep", "named flow"])
async def test_while_the_task_is_in_the_flow(
    tmp_path: Path, quiet: pytest.LogCaptureFixture, http: Any, has_middleware: bool, way: str, state: str
) -> None:
    """However the flow is driven: a task that waits never runs, the result of one that runs is dropped."""
    flow = forked(Hold())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    gone: list[str] = []

    if way == "flow_endpoint":

        @app.post("/hold")
        @flow_endpoint(flow, timeout_sec=30)
        async def decorated(task: HeldPicture) -> str:
            return "through"

    elif way == "FlowTask":

        @app.post("/hold")
        async def by_hand(task: Annotated[HeldPicture, FlowTask()], flow: FlowDep) -> str:
            await flow.process(task, 30)
            return "through"

    elif way == "FlowDep":

        @app.post("/hold")
        async def own_task(request: Request, gate: Path, name: str, flow: FlowDep) -> str:
            await request.body()
            try:
                await flow.process(Held(gate, name), 30)
            except Exception as exc:
                gone.append(type(exc).__name__)
                raise
            return "through"

    else:

        async def named(task: Any) -> str:
            await flow.process(task, 30)
            return "through"

        named.__annotations__["task"] = Annotated[HeldPicture, FlowTask(flow)]
        app.post("/hold")(named)

    if has_middleware:
        add_middleware(app)
    gate, second = Gate(tmp_path, "first"), Gate(tmp_path, "second")
    async with serving(app, http) as server:
        first = None
        if state == "queued":
            first = asyncio.create_task(server.post(f"/hold?gate={tmp_path}&name=first", content=b"x"))
            await eventually(gate.is_entered)
        async with Connection(server) as connection:
            path = f"/hold?gate={tmp_path}&name=second"
            await connection.send(path, f"Content-Length: {len(BODY)}", body=BODY)
            if state == "queued":
                await eventually(lambda: flow.statistics().in_flight == 2)
            else:
                await eventually(second.is_entered)
        await eventually(lambda: flow.statistics().cancelled == 1)
        await eventually(lambda: " 499: " in quiet.text)
        assert gone == ["ClientDisconnect"] * (way == "FlowDep")
        gate.open()
        second.open()
        if first is not None:
            assert (await first).json() == "through"
            await eventually(lambda: flow.statistics().completed == 1)
            assert not second.is_entered()
        await eventually(lambda: blocks(flow) == taken(flow) == 0)
    assert flow.statistics().in_flight == 0


async def test_while_the_answer_streams(
    quiet: pytest.LogCaptureFixture, http: Any, has_middleware: bool, tmp_path: Path
) -> None:
    """The blocks of the stream are released."""
    flow = forked(Hold())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    ended = asyncio.Event()

    @app.post("/stream")
    async def stream(task: Annotated[HeldPicture, FlowTask()]) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(task.image)
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(pieces())

    if has_middleware:
        add_middleware(app)
    async with serving(app, http) as server:
        async with Connection(server) as connection:
            await connection.send(f"/stream?gate={tmp_path}", f"Content-Length: {len(BODY)}", body=BODY)
            assert " 200 " in await connection.read_head()
        await asyncio.wait_for(ended.wait(), 20)
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


async def test_while_shared_memory_is_sent(quiet: pytest.LogCaptureFixture, http: Any, has_middleware: bool) -> None:
    """Its block is released."""
    flow = forked(Paint())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/pixels")
    @flow_endpoint(flow)
    async def pixels(task: Pixels) -> SharedResponse:
        return SharedResponse(task.array)

    if has_middleware:
        add_middleware(app)
    async with serving(app, http) as server:
        async with Connection(server) as connection:
            await connection.send("/pixels?size=8000000", "Content-Length: 0")
            assert " 200 " in await connection.read_head()
            await eventually(lambda: blocks(flow) == 1)
        await eventually(lambda: blocks(flow) == 0)


async def test_what_an_endpoint_leaves_running_goes_on(quiet: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Work in the background is not for the client, who has the answer and may go."""
    flow = forked(Hold())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    tasks: list[asyncio.Task[Any]] = []

    @app.get("/later")
    async def later(background: BackgroundTasks, flow: FlowDep) -> str:
        tasks.append(asyncio.create_task(flow.process(Held(tmp_path, "one"), 30)))
        background.add_task(flow.process, Held(tmp_path, "two"), 30)
        return "later"

    async with serving(app) as server:
        assert (await server.get("/later")).json() == "later"
        await server.aclose()
        gates = [Gate(tmp_path, name) for name in ("one", "two")]
        await eventually(lambda: any(gate.is_entered() for gate in gates))
        await asyncio.sleep(3 * ARM_DELAY)  # a watch would listen by then
        for gate in gates:
            gate.open()
        await eventually(lambda: flow.statistics().completed == 2)
        await asyncio.wait(tasks)
    assert flow.statistics().cancelled == 0


async def test_a_watch_does_not_consume_an_unread_body(tmp_path: Path) -> None:
    """An endpoint may process a task first and read the body then."""
    flow = forked(Hold())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/late")
    async def late(request: Request, flow: FlowDep) -> int:
        await flow.process(Held(tmp_path), 30)
        return len(await request.body())

    gate = Gate(tmp_path)
    async with serving(app) as server:
        for body in (b"", BODY):
            answer = asyncio.create_task(server.post("/late", content=body))
            await eventually(gate.is_entered)
            await asyncio.sleep(3 * ARM_DELAY)  # the watch listens by then
            gate.open()
            assert (await answer).json() == len(body)
