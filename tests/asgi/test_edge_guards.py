"""What a client may not do while its body comes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, ArenaFull, Flow, Overloaded, UploadLimits, flow_endpoint
from fastapi_aqueduct.engine.intake import Intake, IntakeCap
from fastapi_aqueduct.testing import client

from ..support import blocks, eventually, running
from .edge_handlers import Pass
from .handlers import Add, Picture
from .support import Connection, serving, taken

MIB = 1 << 20


def make_app(flow: Flow, limits: UploadLimits, has_middleware: bool = False) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/total")
    @flow_endpoint(flow, upload_limits=limits)
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
    """Gets 408, its connection is closed and its block is free."""
    flow = Flow(Add())
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
    """Is never idle, and falls behind the least rate all the same."""
    flow = Flow(Add())
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
    """May take longer than any single limit."""
    flow = Flow(Add())
    app = make_app(flow, UploadLimits(idle_timeout=0.5, min_rate=10, grace=0.5))
    async with serving(app) as server, Connection(server) as connection:
        await connection.send("/total", "Content-Length: 20")
        for _ in range(20):
            await connection.send_more(b"\1")
            await asyncio.sleep(0.05)  # the pace of the client is what is tested
        assert " 200 " in await connection.read_head()


async def test_no_limits() -> None:
    """All of them can be switched off."""
    flow = Flow(Add())
    limits = UploadLimits(idle_timeout=None, min_rate=0, max_uploads=None)
    async with client(make_app(flow, limits)) as http:
        assert (await http.post("/total", content=b"\1\2")).json() == 3


async def test_too_many_uploads() -> None:
    """Are refused before their bodies, with a time to come back; what is refused leaves no trace."""
    flow = Flow(Add())
    async with serving(make_app(flow, UploadLimits(max_uploads=2))) as server:
        async with Connection(server) as one, Connection(server) as two, Connection(server) as three:
            for connection in (one, two):
                await connection.send("/total", "Content-Length: 1000", body=b"x")
            await eventually(lambda: flow.statistics().arena.receiving == 2000)
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
    """An upload alone may have more; together they have a limit."""
    flow = Flow(Add(), memory_limit=64 * MIB)
    async with serving(make_app(flow, UploadLimits(max_pending_bytes=2 * MIB))) as server:
        async with Connection(server) as one:
            await one.send("/total", f"Content-Length: {3 * MIB}")
            await eventually(lambda: flow.statistics().arena.receiving == 3 * MIB)
            assert (await server.post("/total", content=b"\1")).status_code == 503
        await eventually(lambda: flow.statistics().arena.receiving == 0)
        assert (await server.post("/total", content=b"\1")).status_code == 200


# Blocks that grow


async def test_a_block_grows_where_it_is() -> None:
    """When what lies behind it is free, also when that is a hole."""
    async with running(Flow(Pass(), memory_limit=64 * MIB)) as flow:
        with await flow.reserve(MIB, 1) as first, await flow.reserve(MIB, 1) as second:
            end = await flow.reserve(MIB, 1)
            first.write(b"a" * MIB)
            before = taken(flow)
            second.close()
            await first.grow(3 * MIB // 2, 1)
            assert taken(flow) == before - MIB // 2
            await end.grow(2 * MIB, 1)
            first.write(b"b" * 10)
            end.write(b"c")
            assert flow.statistics().arena.receiving == 3 * MIB // 2 + 2 * MIB
            view, other = first.finish(), end.finish()
            assert bytes(view) == b"a" * MIB + b"b" * 10 and bytes(other) == b"c"
            del view, other
    assert flow.statistics().arena.receiving == 0


async def test_a_block_moves_when_it_cannot_grow() -> None:
    """In pieces, between which others have their turn."""
    content = bytes(range(256)) * 4096 * 3
    async with running(Flow(Pass(), memory_limit=64 * MIB)) as flow:
        with await flow.reserve(len(content), 1) as intake, await flow.reserve(1, 1):
            intake.write(content)
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            counter = asyncio.create_task(count())
            await intake.grow(2 * len(content), 1)
            counter.cancel()
            assert turns >= 3
            intake.write(b"end")
            view = intake.finish()
            assert bytes(view) == content + b"end"
            del view
        assert taken(flow) == 0


async def test_a_move_that_is_cancelled() -> None:
    """Leaves the old block to its owner, and the new one free."""
    async with running(Flow(Pass(), memory_limit=64 * MIB)) as flow:
        with await flow.reserve(3 * MIB, 1) as intake, await flow.reserve(1, 1):
            intake.write(b"x" * 3 * MIB)
            before = taken(flow)
            move = asyncio.create_task(intake.grow(6 * MIB, 1))
            await asyncio.sleep(0)
            assert taken(flow) == before + 6 * MIB
            move.cancel()
            await asyncio.wait([move])
            assert taken(flow) == before
            assert flow.statistics().arena.receiving == 3 * MIB + 1
        assert taken(flow) == 0


async def test_no_room_to_grow() -> None:
    """Is noticed in time."""
    async with running(Flow(Pass(), memory_limit=4 * MIB)) as flow:
        with await flow.reserve(MIB, 1) as intake:
            intake.write(b"x")
            with pytest.raises(ArenaFull):
                await intake.grow(5 * MIB, 1)
            with await flow.reserve(MIB, 1), pytest.raises(Overloaded):
                await intake.grow(3 * MIB, 1)


async def test_those_who_wait_for_room_are_told() -> None:
    """Also when an upload ends without a byte, or gives most of its block back."""
    cap = IntakeCap(size=100 * MIB)
    async with running(Flow(Pass(), memory_limit=8 * MIB)) as flow:
        for content in (b"", b"x"):
            first = await flow.reserve(7 * MIB, 1, cap)
            waiting = asyncio.create_task(flow.reserve(6 * MIB, 20, cap))
            await eventually(lambda: flow.statistics().arena.receiving == 13 * MIB)
            first.write(content)
            view = first.finish()
            second: Intake = await asyncio.wait_for(waiting, 10)
            second.close()
            assert bytes(view) == content
            del view


async def test_a_refused_reservation_is_not_counted() -> None:
    """Whether it was refused at once or after waiting."""
    async with running(Flow(Pass(), memory_limit=4 * MIB)) as flow:
        with await flow.reserve(3 * MIB, 1):
            with pytest.raises(ArenaFull):
                await flow.reserve(2 * MIB, 0.05, IntakeCap(size=100 * MIB))
            with pytest.raises(Overloaded):
                await flow.reserve(2 * MIB, 0.05, IntakeCap(intakes=1))
            assert flow.statistics().arena.receiving == 3 * MIB
    assert blocks(flow) == 0


async def test_a_body_of_unknown_length_takes_what_it_needs() -> None:
    """And not what it might need."""
    flow = Flow(Add())
    async with serving(make_app(flow, UploadLimits(max_body_size=1 << 30))) as server, Connection(server) as connection:
        await connection.send("/total", "Transfer-Encoding: chunked", body=b"40000\r\n" + bytes(0x40000) + b"\r\n")
        await eventually(lambda: flow.statistics().arena.receiving)
        for _ in range(8):
            await connection.send_more(b"40000\r\n" + bytes(0x40000) + b"\r\n")
        await eventually(lambda: flow.statistics().arena.receiving > 2 * MIB)
        assert flow.statistics().arena.receiving <= 2 * 9 * 0x40000
        await connection.send_more(b"0\r\n\r\n")
        assert " 200 " in await connection.read_head()
        await eventually(lambda: taken(flow) == 0)
