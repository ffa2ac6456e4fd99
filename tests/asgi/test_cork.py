"""Under uvicorn the head and the body of a small answer leave together."""

from __future__ import annotations

import re
import socket
import struct
import sys
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, flow_endpoint

from .handlers import Adder, Sum
from .support import Connection, serving

DATA_SEGMENTS_IN = struct.Struct("152xI")
"""Where Linux has ``tcpi_data_segs_in`` in ``struct tcp_info``."""

both = pytest.mark.parametrize("http", ["httptools", "h11"])


def make_app(flow: Flow) -> FastAPI:
    @flow_endpoint(flow)
    async def plain(task: Sum) -> dict[str, int]:
        return {"result": task.result}

    app = FastAPI(lifespan=Aqueduct(flow).lifespan, routes=[Route("/plain", plain, methods=["POST", "HEAD"])])

    @app.post("/sum")
    @flow_endpoint(flow)
    async def total(task: Sum) -> int:
        return task.result

    @app.post("/text")
    @flow_endpoint(flow)
    async def text(task: Sum) -> str:
        return "x" * task.result

    @app.post("/other")
    async def other() -> int:
        return 42

    return app


async def segments(connection: Connection, path: str) -> int:
    """Ask something and count the segments with data in which the answer comes."""
    before = count(connection.socket)
    await connection.send(path, "Content-Length: 0")
    head = await connection.read_head()
    assert head.startswith("HTTP/1.1 200")
    (length,) = re.findall(r"(?i)content-length: (\d+)", head)
    assert b"42" in await connection.read_body(int(length))
    return count(connection.socket) - before


def count(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, DATA_SEGMENTS_IN.size)
    found: int = DATA_SEGMENTS_IN.unpack(info)[0]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="segments are counted as Linux does it")
@both
async def test_an_answer_is_one_segment(http: Any) -> None:
    """If a new uvicorn writes elsewhere, answers still come, in two: this is where it is noticed."""
    async with serving(make_app(Flow(FlowStep(Adder()))), http) as server, Connection(server) as connection:
        await segments(connection, "/sum?a=32")
        assert await segments(connection, "/sum?a=32") == 1
        assert await segments(connection, "/plain?a=32") == 1
        assert await segments(connection, "/other") == 2  # so they can be told apart


@both
async def test_answers_to_a_pipeline_come_in_order(http: Any) -> None:
    async with serving(make_app(Flow(FlowStep(Adder()))), http) as server, Connection(server) as connection:
        request = "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
        paths = ["/sum?a=1", "/plain?a=2", "/other", "/sum?a=3", "/text?a=4"]
        await connection.send_more("".join(request.format(path=path) for path in paths).encode())
        bodies = [b"11", b'{"result":12}', b"42", b"13", b'"xxxxxxxxxxxxxx"']
        for body in bodies:
            assert f"content-length: {len(body)}\r\n" in (await connection.read_head()).lower()
            assert await connection.read_body(len(body)) == body


@both
async def test_an_answer_is_whole_when_the_connection_is_closed_after_it(http: Any) -> None:
    async with serving(make_app(Flow(FlowStep(Adder()))), http) as server, Connection(server) as connection:
        await connection.send("/sum?a=5", "Content-Length: 0", "Connection: close")
        assert (await connection.read_body()).endswith(b"\r\n\r\n15")


@both
@pytest.mark.parametrize("size", [10, 1000, 64 << 10, 200_000])
async def test_answers_of_all_sizes_are_whole(http: Any, size: int) -> None:
    async with serving(make_app(Flow(FlowStep(Adder()))), http) as server:
        for _ in range(2):
            answer = await server.post(f"/text?a={size - 10}")
            assert answer.json() == "x" * size


@both
async def test_an_answer_without_a_body_is_its_head(http: Any) -> None:
    async with serving(make_app(Flow(FlowStep(Adder()))), http) as server:
        for _ in range(2):
            answer = await server.head("/plain?a=5")
            assert answer.status_code == 200
            assert answer.headers["content-length"] == str(len('{"result":15}'))


@both
async def test_a_middleware_may_hold_the_head_back(http: Any) -> None:
    app = make_app(Flow(FlowStep(Adder())))
    app.add_middleware(GZipMiddleware, minimum_size=500)
    async with serving(app, http) as server:
        for size in (10, 5000, 10, 5000):
            answer = await server.post(f"/text?a={size - 10}")
            assert answer.json() == "x" * size
            assert (answer.headers.get("content-encoding") == "gzip") is (size > 500)
