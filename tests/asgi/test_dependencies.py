"""The same by hand: the task and the flow as dependencies."""

import json
from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.testclient import TestClient

from fastapi_aqueduct import Aqueduct, ConfigurationError, FlowDep, FlowTask, TaskTimeout, flow_endpoint
from fastapi_aqueduct.asgi.dependencies import get_flow
from fastapi_aqueduct.testing import client

from ..support import blocks, eventually, forked
from .handlers import Add, Adder, Picture, Sum
from .json_handlers import Join, Text


async def test_an_endpoint_drives_the_flow_itself() -> None:
    """Parameters and body reach the task, and errors become the same answers."""
    flow = forked(Add())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/total")
    async def total(task: Annotated[Picture, FlowTask()], flow: FlowDep, patience: float = 5) -> int:
        await flow.process(task, timeout_sec=patience)
        return task.total

    async with client(app) as http:
        assert (await http.post("/total?factor=2", content=b"\1\2")).json() == 6
        assert (await http.post("/total", files={"image": b"\1\2"})).json() == 3
        assert (await http.post("/total?factor=0", content=b"\1")).status_code == 422
        assert (await http.post("/total")).status_code == 422
        assert (await http.post("/total?patience=0", content=b"\1")).status_code == 504
        operation = (await http.get("/openapi.json")).json()["paths"]["/total"]["post"]
        assert {parameter["name"] for parameter in operation["parameters"]} == {"factor", "patience"}
        assert set(operation["requestBody"]["content"]) == {"application/octet-stream", "multipart/form-data"}
        await eventually(lambda: blocks(flow) == 0)


async def test_a_limit_of_its_own() -> None:
    """On the size of the body."""
    flow = forked(Add())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/total")
    async def total(task: Annotated[Picture, FlowTask(max_body_size=2)]) -> int:
        assert task.image is not None
        return len(task.image)

    async with client(app) as http:
        assert (await http.post("/total", content=b"\1\2")).json() == 2
        assert (await http.post("/total", content=b"\1\2\3")).status_code == 413


async def test_several_flows() -> None:
    """Each task names its flow; to ask for the only one is an error then."""
    adder, joiner = forked(Adder(), name="adder"), forked(Join(), name="joiner")
    app = FastAPI(lifespan=Aqueduct(adder, joiner).lifespan)

    @app.post("/both")
    async def both(sum: Annotated[Sum, FlowTask(adder)], text: Annotated[Text, FlowTask(joiner)]) -> tuple[int, str]:
        await adder.process(sum)
        await joiner.process(text)
        return sum.result, text.text

    @app.get("/which")
    async def which(flow: FlowDep) -> None: ...

    async with client(app) as http:
        assert (await http.post("/both?a=1", json={"words": ["x", "y"]})).json() == [11, "x y"]
        with pytest.raises(ConfigurationError, match="adder, joiner"):
            await http.get("/which")


async def test_a_generator_endpoint() -> None:
    """The upload stays in memory until the last piece of the answer was sent."""
    flow = forked(Add())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/stream")
    async def stream(task: Annotated[Picture, FlowTask()]) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            assert task.image is not None
            for start in range(0, len(task.image), 1000):
                yield json.dumps(sum(task.image[start : start + 1000])) + "\n"

        return StreamingResponse(lines())

    async with client(app) as http:
        response = await http.post("/stream", content=b"\1" * 5000)
        assert response.text.split() == ["1000"] * 5
        await eventually(lambda: blocks(flow) == 0)


async def test_the_flow_can_be_replaced_in_tests() -> None:
    """For both dependencies at once."""
    other = forked(Adder(), name="other")
    app = FastAPI()

    @app.get("/sum")
    async def answer(task: Annotated[Sum, FlowTask()], flow: FlowDep) -> tuple[int, str]:
        await flow.process(task)
        return task.result, flow.name

    app.dependency_overrides[get_flow] = lambda: other
    async with other, client(app) as http:
        assert (await http.get("/sum?a=1")).json() == [11, "other"]


def test_websockets() -> None:
    """The flow is a dependency there too, and its errors are the endpoint's to handle."""
    flow = forked(Adder())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.websocket("/sums")
    async def sums(socket: WebSocket, flow: FlowDep) -> None:
        await socket.accept()
        for timeout in (5.0, 0.0):
            task = await flow.process(Sum(await socket.receive_json()), timeout)
            await socket.send_json(task.result)

    with TestClient(app) as http, pytest.raises(TaskTimeout), http.websocket_connect("/sums") as socket:
        socket.send_json(5)
        assert socket.receive_json() == 15
        socket.send_json(5)
        socket.receive_json()


def test_what_is_no_task() -> None:
    """It is refused where it is written."""
    app = FastAPI()

    async def endpoint(task: Annotated[int, FlowTask()]) -> None: ...

    with pytest.raises(TypeError, match="int is not a subclass of BaseTask"):
        app.post("/")(endpoint)


async def test_a_second_task_beside_that_of_flow_endpoint() -> None:
    """It comes as a dependency, from the same request, and is not processed."""
    flow = forked(Adder())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/")
    @flow_endpoint(flow)
    async def both(task: Sum, other: Annotated[Sum, FlowTask(flow)]) -> list[int]:
        return [task.result, other.a, other.result]

    async with client(app) as http:
        assert (await http.get("/?a=5")).json() == [15, 5, 0]
