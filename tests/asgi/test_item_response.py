"""The response of our own to endpoints that yield, without a flow."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.exceptions import ResponseValidationError
from pydantic import BaseModel
from starlette.types import Message, Receive, Scope, Send

from fastapi_aqueduct.asgi.streaming.chunk_sender import FULL
from fastapi_aqueduct.asgi.streaming.formats import JSONLines, Pieces, ServerSentEvents, dump_any, dump_as
from fastapi_aqueduct.asgi.streaming.primed import Primed
from fastapi_aqueduct.asgi.streaming.response import ItemResponse

from .support import serving


async def primed(values: AsyncGenerator[Any, None]) -> Primed:
    """Make the first step of an iteration."""
    found = Primed(values, None)
    await found.begin()
    return found


class Client:
    """A client that takes messages, perhaps slowly, and stays.

    Args:
        delay: Whether it takes messages only when `reads` is set.
    """

    def __init__(self, delay: bool = False) -> None:
        self.reads = asyncio.Event()
        self.leaves = asyncio.Event()
        self.bodies: list[bytes] = []
        self.is_complete = False
        if not delay:
            self.reads.set()

    async def get(self, response: ItemResponse) -> None:
        """Send it a response."""
        await response({"type": "http", "method": "GET", "path": "/"}, self._receive, self._send)

    async def _receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.body":
            self.bodies.append(message["body"])
            self.is_complete = not message["more_body"]


async def test_values_that_are_there_together_are_one_message() -> None:
    is_there = asyncio.Event()

    async def values() -> AsyncGenerator[int, None]:
        for number in range(100):
            if number in (10, 50):
                is_there.clear()
                asyncio.get_running_loop().call_later(0.01, is_there.set)
                await is_there.wait()
            yield number

    client = Client()
    await client.get(ItemResponse(await primed(values()), JSONLines(dump_any)))
    assert [body.split()[0] for body in client.bodies if body] == [b"0", b"10", b"50"]
    assert b"".join(client.bodies).split() == [b"%d" % number for number in range(100)]
    assert client.is_complete


async def test_a_client_that_does_not_read_stops_the_iteration() -> None:
    made = 0

    async def values() -> AsyncGenerator[bytes, None]:
        nonlocal made
        while True:
            made += 1
            yield bytes(1000)

    client = Client(delay=True)
    request = asyncio.create_task(client.get(ItemResponse(await primed(values()), Pieces())))
    for _ in range(100):
        await asyncio.sleep(0)
    assert made <= 2 * FULL // 1000 + 2
    client.reads.set()
    client.leaves.set()
    await request
    assert not client.is_complete


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_events_have_a_keep_alive(http: str) -> None:
    """While nothing comes, and only then. Other formats have none."""

    async def values() -> AsyncGenerator[int, None]:
        for number in range(4):
            yield number
            await asyncio.sleep(0.7 if number == 2 else 0.02)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await FastAPI()(scope, receive, send)
            return
        kind = ServerSentEvents if scope["path"] == "/events" else JSONLines
        response = ItemResponse(await primed(values()), kind(dump_any), keep_alive_interval=0.3)
        await response(scope, receive, send)

    async with serving(app, http) as client:
        parts = (await client.get("/events")).text.split("\n\n")
        assert [part for part in parts if part != ": ping"] == ["data: 0", "data: 1", "data: 2", "data: 3", ""]
        assert parts[3] == ": ping"
        assert (await client.get("/lines")).text == "0\n1\n2\n3\n"


async def test_an_error_does_not_overtake_the_values_before_it() -> None:
    async def values() -> AsyncGenerator[int, None]:
        for number in range(100):
            yield number
        raise ZeroDivisionError

    client = Client()
    with pytest.raises(ZeroDivisionError):
        await client.get(ItemResponse(await primed(values()), JSONLines(dump_any)))
    assert len(b"".join(client.bodies).split()) == 100
    assert not client.is_complete


async def test_an_error_of_the_channel_ends_the_iteration() -> None:
    """A server that raises OSError says that the client has gone; any other error is raised."""
    closed = 0

    async def values() -> AsyncGenerator[int, None]:
        nonlocal closed
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            closed += 1

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    for error in (BrokenPipeError(), ZeroDivisionError()):

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                raise error  # noqa: B023

        response = ItemResponse(await primed(values()), JSONLines(dump_any))
        try:
            await response({"type": "http", "method": "GET", "path": "/"}, receive, send)
        except ZeroDivisionError:
            assert isinstance(error, ZeroDivisionError)
        else:
            assert isinstance(error, BrokenPipeError)
    assert closed == 2


class Item(BaseModel):
    """A model with what pydantic and FastAPI write in their own ways."""

    name: str
    time: timedelta
    price: Decimal


def test_values_are_written_as_by_fastapi() -> None:
    item = Item(name="ä\n", time=timedelta(seconds=1), price=Decimal("1.50"))
    assert dump_as(Item)(item) == '{"name":"ä\\n","time":"PT1S","price":"1.50"}'.encode()
    assert dump_as(list[Item])([item]) == b"[" + dump_as(Item)(item) + b"]"
    with pytest.raises(ResponseValidationError) as info:
        dump_as(Item)({"name": "a"})
    assert [error["loc"] for error in info.value.errors()] == [("response", "time"), ("response", "price")]
    assert json.loads(dump_any({"item": item, "nan": math.nan})) == {
        "item": {"name": "ä\n", "time": "PT1S", "price": "1.50"},
        "nan": None,
    }
    assert dump_any("a\u2028b") == '"a\u2028b"'.encode()
    assert Pieces().encode(memoryview(b"ab")) == Pieces().encode("ab") == b"ab"
    with pytest.raises(TypeError):
        Pieces().encode(5)
