"""Bodies that are made to keep the event loop busy: how much of one is handled in a turn, and what is refused.

What they cost is measured by ``make bench ONLY=shapes``.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import zlib
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Request

from fastapi_aqueduct import Aqueduct, Flow, flow_endpoint
from fastapi_aqueduct.asgi.body.disposition import MAX_SEMICOLONS
from fastapi_aqueduct.asgi.body.gunzip import FREE_MEMBERS, INPUT, LEAST_MEMBER, MEMBERS_PER_TURN, PIECE, GzipDecoder
from fastapi_aqueduct.asgi.body.multipart import PARTS_PER_TURN, STEP, MultipartForm, PartBegin
from fastapi_aqueduct.asgi.body.stream import PIECES_PER_TURN
from fastapi_aqueduct.asgi.errors import MalformedBody
from fastapi_aqueduct.asgi.uvicorn import SMALL, Tap
from fastapi_aqueduct.testing import client

from ..support import blocks, eventually, forked
from .handlers import Add, Picture
from .support import Connection, serving, taken

FORM = {"content-type": "multipart/form-data; boundary=b"}
IMAGE = b'--b\r\nContent-Disposition: form-data; name="image"; filename="%b"\r\n\r\n%b\r\n'
FIELD = b'--b\r\nContent-Disposition: form-data; name="a"%b\r\n\r\n\r\n'
END = b"--b--\r\n"
NOISE = random.Random(1).randbytes(200_000)


def make_app(flow: Flow) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.post("/total")
    @flow_endpoint(flow, timeout_sec=30, accept_gzip=True)
    async def total(task: Picture) -> int:
        return task.total

    @app.post("/pieces")
    async def pieces(request: Request) -> tuple[list[int], int]:
        """Tell how long the pieces are, and what they are made of."""
        sizes: list[int] = []
        checksum = 0

        def write(data: bytes | bytearray) -> bool:
            nonlocal checksum
            sizes.append(len(data))
            checksum = zlib.crc32(data, checksum)
            return True

        async def drain() -> None:
            raise AssertionError

        await Tap(request, write, drain).run()
        return sizes, checksum

    return app


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_small_chunks_are_joined(http: str) -> None:
    """Also between large ones, and nothing changes its place."""
    small, large = NOISE[:3000], NOISE[3000:23_000]
    body = b"".join(chunk(small[at : at + 1]) for at in range(len(small)))
    async with serving(make_app(forked(Add())), "h11" if http == "h11" else "httptools") as server:
        async with Connection(server) as connection:
            wire = (body + chunk(large)) * 3 + b"0\r\n\r\n"
            await connection.send("/pieces", "Transfer-Encoding: chunked", "Connection: close", body=wire)
            assert (await connection.read_head()).startswith("HTTP/1.1 200")
            sizes, checksum = json.loads(await connection.read_body())
    assert checksum == zlib.crc32((small + large) * 3)
    assert sum(sizes) == 3 * 23_000
    # One for each time that the server has read.
    assert len([size for size in sizes if size < SMALL]) < 30


async def test_other_servers_have_no_more_pieces_handled_in_one_turn() -> None:
    """Whatever they have ready."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def body() -> AsyncIterator[bytes]:
        for at in range(50 * PIECES_PER_TURN):
            yield NOISE[at : at + 1]

    async with client(make_app(forked(Add()))) as http:
        counting = asyncio.create_task(count())
        answer = await http.post("/total", content=body())
        counting.cancel()
        await asyncio.wait([counting])
    assert answer.json() == sum(NOISE[: 50 * PIECES_PER_TURN])
    assert turns >= 50


def test_a_turn_has_only_so_many_parts() -> None:
    form = MultipartForm(b"b")
    body = FIELD % b"" * 900 + IMAGE % (b"a", b"x") + END
    start, parts, turns = 0, 0, 0
    while start < len(body):
        events, start = form.feed(body, start)
        begun = sum(isinstance(event, PartBegin) for event in events)
        assert begun <= PARTS_PER_TURN
        parts, turns = parts + begun, turns + 1
    form.finish()
    assert parts == 901
    assert turns >= 901 / PARTS_PER_TURN


class CountingForm(MultipartForm):
    """Counts the bytes that the parser underneath looks at."""

    parsed = 0

    def _parse(self, data: bytes | bytearray) -> None:
        self.parsed += len(data)
        super()._parse(data)


@pytest.mark.parametrize("filler", [b"\r\n\r\n", b"\r\n--bx\r\n\r\n", b"\r\n--b--\r\n", FIELD[2:] % b""])
def test_the_parser_looks_at_only_so_many_bytes_in_a_turn(filler: bytes) -> None:
    form = CountingForm(b"b")
    body = IMAGE[:-2] % (b"a", b"") + filler * 900
    start = 0
    while start < len(body):
        before = form.parsed
        _, start = form.feed(body, start)
        assert form.parsed - before <= 2 * STEP


@pytest.mark.parametrize("sign", [b";", b';"', b"; x=1"])
async def test_a_part_header_full_of_parameters_is_refused(sign: bytes) -> None:
    flow = forked(Add())
    async with client(make_app(flow)) as http:
        most = FIELD % (sign * (MAX_SEMICOLONS - 1))
        answer = await http.post("/total", content=most + IMAGE % (b"a", b"\1\2") + END, headers=FORM)
        if b'"' not in sign:
            assert answer.json() == 3
        more = FIELD % (sign * (MAX_SEMICOLONS + 1))
        answer = await http.post("/total", content=IMAGE % (b"a", b"\1\2") + more + END, headers=FORM)
        assert answer.status_code == 400
        assert "parameters" in answer.json()["detail"]
        answer = await http.post("/total", content=b"x", headers={"content-type": "image/png" + ";" * 1000})
        assert answer.status_code == 400
        assert blocks(flow) == taken(flow) == 0


async def test_a_long_file_name_is_not_refused() -> None:
    """Browsers write so in a page whose encoding does not know the letters."""
    async with client(make_app(forked(Add()))) as http:
        answer = await http.post("/total", content=IMAGE % (b"&#1087;" * 255, b"\1\2") + END, headers=FORM)
        assert answer.json() == 3


async def test_a_form_of_many_parts_is_read_over_many_turns() -> None:
    flow = forked(Add())
    async with serving(make_app(flow)) as server:
        body = FIELD % b"" * 900 + IMAGE % (b"a", NOISE) + END
        for _ in range(2):
            assert (await server.post("/total", content=body, headers=FORM)).json() == sum(NOISE)
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


def inflate(data: bytes) -> list[bytes]:
    decoder = GzipDecoder()
    pieces = list(decoder.pieces(data))
    decoder.finish()
    return pieces


def test_a_turn_decompresses_only_so_much() -> None:
    pieces = inflate(gzip.compress(bytes(10 * PIECE)))
    assert len(pieces) >= 10
    assert max(map(len, pieces)) <= PIECE
    pieces = inflate(gzip.compress(NOISE))
    assert b"".join(pieces) == NOISE
    assert max(map(len, pieces)) <= INPUT
    pieces = inflate(gzip.compress(b"x") * FREE_MEMBERS)
    assert b"".join(pieces) == b"x" * FREE_MEMBERS
    assert max(map(len, pieces)) <= MEMBERS_PER_TURN + 1


def test_members_that_are_nearly_empty_are_refused() -> None:
    """Beyond those that files put one behind the other may be."""
    with pytest.raises(MalformedBody, match="members"):
        inflate(gzip.compress(b"") * (2 * FREE_MEMBERS))
    size = LEAST_MEMBER
    members = b"".join(gzip.compress(NOISE[at : at + size]) for at in range(0, len(NOISE), size))
    assert b"".join(inflate(members)) == NOISE


@pytest.mark.parametrize("cut", [1, 7, 5000])
def test_members_may_be_cut_anywhere(cut: int) -> None:
    stream = gzip.compress(NOISE[:20_000]) + gzip.compress(b"") + gzip.compress(bytes(100_000))
    decoder = GzipDecoder()
    found = b"".join(piece for at in range(0, len(stream), cut) for piece in decoder.pieces(stream[at : at + cut]))
    decoder.finish()
    assert found == NOISE[:20_000] + bytes(100_000)
