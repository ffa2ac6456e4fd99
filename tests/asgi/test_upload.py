"""The body of a request streams into shared memory, and nothing of it stays there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, flow_endpoint
from fastapi_aqueduct.testing import client

from ..handlers import Gate
from ..support import blocks, eventually, forked
from .handlers import Add, HeldPicture, Hold, Picture
from .support import Connection, serving, taken

LIMIT = 1 << 20


def make_app(flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/total")
    @flow_endpoint(flow, timeout_sec=30, max_body_size=LIMIT)
    async def total(task: Picture) -> tuple[int, str]:
        return task.total, task.kind

    return app


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


PICTURE = bytes(range(256)) * 3000


GOOD: dict[str, Callable[[], dict[str, Any]]] = {
    "raw": lambda: {"content": PICTURE},
    "image": lambda: {"content": PICTURE, "headers": {"content-type": "image/png"}},
    "curl": lambda: {"content": PICTURE, "headers": {"content-type": "application/x-www-form-urlencoded"}},
    "small chunks": lambda: {"content": pieces(PICTURE, 700)},
    "large chunks": lambda: {"content": pieces(PICTURE, 200_000)},
    "form": lambda: {"files": {"image": ("naïve.png", PICTURE, "image/png")}},
    "form with fields": lambda: {"files": {"image": PICTURE}, "data": {"title": "x" * 5000, "other": "y"}},
    "form with files": lambda: {"files": [("before", PICTURE[:1000]), ("image", PICTURE), ("after", PICTURE[:1000])]},
}


@pytest.mark.parametrize("transport", ["direct", "httptools", "h11"])
async def test_the_handler_sees_the_body(transport: Any) -> None:
    """Whole, whatever way it came, as a read-only view; and the block is free again."""
    flow = forked(Add())
    app = make_app(flow)
    async with client(app) if transport == "direct" else serving(app, transport) as http:
        for kind, request_of in GOOD.items():
            response = await http.post("/total", **request_of())
            assert response.status_code == 200, (kind, response.text)
            assert response.json() == [sum(PICTURE), "memoryview True"], kind
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


async def test_chunked_multipart() -> None:
    """A form of unknown length, in pieces of any size."""
    flow = forked(Add())
    async with client(make_app(flow)) as http:
        request = httpx.Request("POST", "http://test/", files={"image": PICTURE})
        for size in (1500, 100_000):
            body = pieces(request.read(), size)
            response = await http.post(
                "/total", content=body, headers={"content-type": request.headers["content-type"]}
            )
            assert response.json() == [sum(PICTURE), "memoryview True"]


BAD: list[tuple[int, Callable[[], dict[str, Any]]]] = [
    (422, lambda: {}),
    (422, lambda: {"content": b""}),
    (422, lambda: {"content": pieces(b"", 1)}),
    (422, lambda: {"files": {"other": b"x"}}),
    (422, lambda: {"files": {"image": ("", b"")}}),
    (413, lambda: {"content": bytes(LIMIT + 1)}),
    (413, lambda: {"content": pieces(bytes(LIMIT + 1), 100_000)}),
    (413, lambda: {"files": {"image": bytes(LIMIT)}}),
    (400, lambda: {"content": b"x", "headers": {"content-length": "2"}}),
    (400, lambda: {"content": b"xyz", "headers": {"content-length": "2"}}),
    (400, lambda: {"content": b"xyz", "headers": {"content-length": "two"}}),
    (400, lambda: {"content": b"xyz", "headers": {"content-type": "multipart/form-data"}}),
    (400, lambda: {"content": b"xyz", "headers": {"content-type": "multipart/form-data; boundary=b"}}),
    (400, lambda: {"files": [("image", b"one"), ("image", b"two")]}),
]
MISSING = {"type": "missing", "loc": ["body", "image"], "msg": "Field required", "input": None}


async def test_a_body_that_cannot_be_used() -> None:
    """It has a clear answer, and leaves nothing behind."""
    flow = forked(Add())
    async with client(make_app(flow)) as http:
        for number, (status, request_of) in enumerate(BAD):
            response = await http.post("/total", **request_of())
            assert response.status_code == status, (number, response.text)
            detail = response.json()["detail"]
            assert detail == [MISSING] if status == 422 else isinstance(detail, str), number
            await eventually(lambda: blocks(flow) == taken(flow) == 0)
        assert (await http.post("/total", content=b"\1")).status_code == 200


async def test_a_body_of_exactly_the_limit() -> None:
    """The limit itself is allowed."""
    flow = forked(Add())
    async with client(make_app(flow)) as http:
        assert (await http.post("/total", content=bytes(LIMIT))).status_code == 200
        assert (await http.post("/total", content=pieces(bytes(LIMIT), 100_000))).status_code == 200


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_what_is_refused_is_refused_before_the_body(http: Any) -> None:
    """Neither a wrong parameter nor a body that is announced too large is waited for, nor asked to continue."""
    flow = forked(Add())
    async with serving(make_app(flow), http) as server:
        for path, length, status in (("/total?factor=0", 1000, 422), ("/total", LIMIT + 1, 413)):
            async with Connection(server) as connection:
                await connection.send(path, f"Content-Length: {length}", "Expect: 100-continue")
                assert f" {status} " in (await connection.read_head()).splitlines()[0]
        async with Connection(server) as connection:
            await connection.send("/total", "Content-Length: 3", "Expect: 100-continue")
            assert " 100 " in await connection.read_head()
            await connection.send_more(b"\1\2\3")
            assert " 200 " in await connection.read_head()


async def test_a_full_queue_refuses_before_the_body(tmp_path: Path) -> None:
    """With 503 and a time to come back."""
    flow = forked(Hold(), queue_size=1)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    gate = Gate(tmp_path)

    @app.post("/hold")
    @flow_endpoint(flow, timeout_sec=30)
    async def hold(task: HeldPicture) -> int:
        return len(task.image)

    path = f"/hold?gate={tmp_path}"
    async with serving(app) as http:
        pending: list[asyncio.Task[httpx.Response]] = []
        while flow.statistics().steps[0].queued == 0:
            pending.append(asyncio.create_task(http.post(path, content=b"abc")))
            await eventually(lambda: flow.statistics().in_flight == len(pending))
            await eventually(gate.is_entered)
        async with Connection(http) as connection:
            await connection.send(path, "Content-Length: 1000000")
            head = await connection.read_head()
            assert " 503 " in head.splitlines()[0]
            assert "retry-after: 1" in head.lower()
        gate.open()
        assert {(await request).json() for request in pending} == {3}


async def test_no_room_in_shared_memory(tmp_path: Path) -> None:
    """An upload waits for room for the time its task has, and is then refused."""
    flow = forked(FlowStep(Hold()), memory_limit=4 << 20)
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    gate = Gate(tmp_path)

    @app.post("/hold")
    @flow_endpoint(flow, timeout_sec=30)
    async def hold(task: HeldPicture) -> int:
        return len(task.image)

    @app.post("/impatient")
    @flow_endpoint(flow, timeout_sec=0.05)
    async def impatient(task: HeldPicture) -> int:
        return len(task.image)

    async with client(app) as http:
        pending = asyncio.create_task(http.post(f"/hold?gate={tmp_path}", content=bytes(3 << 20)))
        await eventually(gate.is_entered)
        response = await http.post(f"/impatient?gate={tmp_path}", content=bytes(2 << 20))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        waiting = asyncio.create_task(http.post(f"/hold?gate={tmp_path}", content=bytes(2 << 20)))
        gate.open()
        assert (await pending).json() == 3 << 20
        assert (await waiting).json() == 2 << 20
        await eventually(lambda: blocks(flow) == taken(flow) == 0)
