"""What a client may not do while its body comes."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI

from fastapi_aqueduct import Aqueduct, Flow, FlowTask, UploadLimits, flow_endpoint
from fastapi_aqueduct.testing import client

from ..support import eventually, forked
from .handlers import Add, Picture
from .support import Connection, serving, taken

MIB = 1 << 20


def make_app(flow: Flow, limits: UploadLimits, has_middleware: bool = False, timeout_sec: float = 5.0) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/total")
    @flow_endpoint(flow, upload_limits=limits, timeout_sec=timeout_sec)
    async def total(task: Picture) -> int:
        return task.total

    if has_middleware:

        @app.middleware("http")
        async def middleware(request: Any, call_next: Any) -> Any:
            return await call_next(request)

    return app


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("has_middleware", [False, True], ids=["plain", "middleware"])
@pytest.mark.parametrize("kind", ["raw", "chunked", "form", "nothing"])
async def test_a_client_that_falls_idle(http: Any, has_middleware: bool, kind: str) -> None:
    """It gets 408, its connection is closed and its block is free."""
    flow = forked(Add())
    app = make_app(flow, UploadLimits(idle_timeout=0.2), has_middleware)
    beginnings = {
        "raw": (["Content-Length: 1000000"], b"abc"),
        "nothing": (["Content-Length: 1000000"], b""),
        "chunked": (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n"),
        "form": (
            ["Content-Length: 1000000", "Content-Type: multipart/form-data; boundary=b"],
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc',
        ),
    }
    headers, body = beginnings[kind]
    async with serving(app, http) as server, Connection(server) as connection:
        await connection.send("/total", *headers, body=body)
        head = await connection.read_head()
        assert " 408 " in head.splitlines()[0]
        assert "connection: close" in head.lower()
        await eventually(lambda: taken(flow) == 0)
        assert flow.statistics().arena.receiving == 0


async def test_a_client_that_is_too_slow() -> None:
    """It is never idle, and falls behind the least rate all the same."""
    flow = forked(Add())
    app = make_app(flow, UploadLimits(idle_timeout=10, min_rate=1000, grace=0.2))
    async with serving(app) as server, Connection(server) as connection:
        await connection.send("/total", "Content-Length: 1000000")
        head = asyncio.create_task(connection.read_head())
        while not head.done():
            await connection.send_more(b"x")
            await asyncio.wait([head], timeout=0.02)
        assert " 408 " in (await head).splitlines()[0]
        await eventually(lambda: taken(flow) == 0)


async def test_a_client_that_is_fast_enough() -> None:
    """It may take longer than any single limit."""
    flow = forked(Add())
    app = make_app(flow, UploadLimits(idle_timeout=0.5, min_rate=4, grace=0.5))
    async with serving(app) as server, Connection(server) as connection:
        await connection.send("/total", "Content-Length: 20")
        for _ in range(20):
            await connection.send_more(b"\1")
            await asyncio.sleep(0.05)  # the pace of the client is what is tested
        assert " 200 " in await connection.read_head()


async def test_no_limits() -> None:
    """All of them can be switched off."""
    flow = forked(Add())
    limits = UploadLimits(idle_timeout=None, min_rate=0, max_uploads=None)
    async with client(make_app(flow, limits)) as http:
        assert (await http.post("/total", content=b"\1\2")).json() == 3


async def test_too_many_uploads() -> None:
    """They are refused before their bodies, with a time to come back; what is refused leaves no trace."""
    flow = forked(Add())
    async with serving(make_app(flow, UploadLimits(max_uploads=2))) as server:
        async with Connection(server) as one, Connection(server) as two, Connection(server) as three:
            for connection in (one, two):
                await connection.send("/total", "Content-Length: 1000", body=b"x")
            await eventually(lambda: flow.statistics().arena.receiving == 2)
            await three.send("/total", "Content-Length: 1000", "Expect: 100-continue")
            head = await three.read_head()
            assert " 503 " in head.splitlines()[0]
            assert "retry-after: 1" in head.lower()
            await one.send_more(b"x" * 999)
            assert " 200 " in await one.read_head()
            async with Connection(server) as four:
                await four.send("/total", "Content-Length: 1", body=b"x")
                assert " 200 " in await four.read_head()
        await eventually(lambda: taken(flow) == 0)
        assert flow.statistics().arena.receiving == 0


async def test_too_many_bytes_in_unfinished_uploads() -> None:
    """An upload alone may have more; together they have a limit, and one that waits too long gets ``Retry-After``."""
    flow = forked(Add(), memory_limit=64 * MIB)
    async with serving(make_app(flow, UploadLimits(max_pending_bytes=2 * MIB), timeout_sec=2.0)) as server:
        async with Connection(server) as one:
            await one.send("/total", f"Content-Length: {3 * MIB}")
            assert (await server.post("/total", content=b"\1")).status_code == 200  # it is but announced
            await one.send_more(bytes(5 * MIB // 2))
            await eventually(lambda: flow.statistics().arena.receiving == 5 * MIB // 2)
            refused = await server.post("/total", content=bytes(MIB))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            await one.send_more(bytes(MIB // 2))
            assert " 200 " in await one.read_head()
        await eventually(lambda: flow.statistics().arena.receiving == 0)
        assert (await server.post("/total", content=bytes(MIB))).status_code == 200


@pytest.mark.parametrize("name", ['"image"; filename="f"', '"note"'], ids=["file", "field"])
async def test_what_has_come_of_a_form_counts_until_all_of_it_has(name: str) -> None:
    """Its finished parts, and its fields."""
    flow = forked(Add(), memory_limit=64 * MIB)
    part = f"--b\r\nContent-Disposition: form-data; name={name}\r\n\r\n".encode() + bytes(100_000)
    next_part = b'\r\n--b\r\nContent-Disposition: form-data; name="other"; filename="f"\r\n\r\n'
    async with serving(make_app(flow, UploadLimits(max_uploads=1))) as server:
        async with Connection(server) as one:
            headers = ["Content-Length: 1000000", "Content-Type: multipart/form-data; boundary=b"]
            await one.send("/total", *headers, body=part + next_part + b"dropped")
            await eventually(lambda: flow.statistics().arena.receiving == 100_000)
            refused = await server.post("/total", content=b"\1")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        await eventually(lambda: flow.statistics().arena.receiving == 0)
        assert (await server.post("/total", content=b"\1")).status_code == 200


@pytest.mark.parametrize("headers", [[], ["Transfer-Encoding: chunked"]], ids=["announced", "chunked"])
async def test_what_can_never_fit(headers: list[str]) -> None:
    """It is too large, whatever the endpoint takes: to come back later would not help."""
    flow = forked(Add(), memory_limit=MIB)
    async with serving(make_app(flow, UploadLimits())) as server, Connection(server) as connection:
        if headers:
            await connection.send("/total", *headers, body=b"100001\r\n" + bytes(MIB + 1))
        else:
            await connection.send("/total", f"Content-Length: {MIB + 1}", "Expect: 100-continue")
        head = await connection.read_head()
        assert " 413 " in head.splitlines()[0]
        assert "retry-after" not in head.lower()


async def test_a_body_of_unknown_length_takes_what_it_needs() -> None:
    """And not what it might need."""
    flow = forked(Add())
    async with serving(make_app(flow, UploadLimits(max_body_size=1 << 30))) as server, Connection(server) as connection:
        await connection.send("/total", "Transfer-Encoding: chunked", body=b"40000\r\n" + bytes(0x40000) + b"\r\n")
        await eventually(lambda: flow.statistics().arena.receiving)
        for _ in range(8):
            await connection.send_more(b"40000\r\n" + bytes(0x40000) + b"\r\n")
        await eventually(lambda: flow.statistics().arena.receiving == 9 * 0x40000)
        await connection.send_more(b"0\r\n\r\n")
        assert " 200 " in await connection.read_head()
        await eventually(lambda: taken(flow) == 0)


@pytest.mark.parametrize(
    "how", ["endpoint", "FlowTask", "FlowTask of a flow", "FastAPI", "a router", "small", "FastAPI, small"]
)
async def test_an_endpoint_that_takes_more_than_can_fit(caplog: pytest.LogCaptureFixture, how: str) -> None:
    """It is a warning at the start, with both numbers."""
    flow = forked(Add(), memory_limit=MIB)
    app, router = FastAPI(lifespan=Aqueduct(flow).lifespan), APIRouter(max_body_size=3 * MIB)
    if how.startswith("FlowTask"):
        marker = FlowTask(flow) if how.endswith("flow") else FlowTask()

        async def given(task: Picture) -> int:
            return 0

        given.__annotations__["task"] = Annotated[Picture, marker]
        app.post("/total")(given)
    else:
        size = {"FastAPI": 2 * MIB, "FastAPI, small": MIB // 2}.get(how)
        post = router.post if how == "a router" else app.post

        @post("/total", max_body_size=size)
        @flow_endpoint(flow, max_body_size=MIB if how == "small" else None)
        async def total(task: Picture) -> int:
            return 0

    app.include_router(router)
    async with client(app):
        found = [record.getMessage() for record in caplog.records if "max_body_size" in record.getMessage()]
    wanted = [] if how.endswith("small") else [{"FastAPI": 2, "a router": 3}.get(how, 64) * MIB]
    assert [int(text.split("up to ")[1].split()[0]) for text in found] == wanted
    assert all("/total" in text and f"has {MIB} bytes" in text for text in found)
