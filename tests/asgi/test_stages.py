"""The stages of an upload, each before a next stage that accepts no more than one piece at a time."""

from __future__ import annotations

import asyncio
import gzip
import random

import pytest

from fastapi_aqueduct.asgi.body.gunzip import PIECE, Gunzip
from fastapi_aqueduct.asgi.body.multipart import Multipart, PartBegin, PartData, PartSink
from fastapi_aqueduct.asgi.body.sink import Sink
from fastapi_aqueduct.asgi.errors import BodyTooLarge, MalformedBody

NOISE = random.Random(1).randbytes(300_000)
BEGIN = b'--b\r\nContent-Disposition: form-data; name="%d"\r\n\r\n'


class Bytes(Sink):
    """Keeps every second piece until it is drained."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.has_finished = False
        self._kept: bytes | None = None
        self._number = 0

    def write(self, data: bytes | bytearray) -> bool:
        assert self._kept is None, "a piece came before the last one was drained"
        self._number += 1
        if self._number % 2:
            self.content += data
            return True
        self._kept = bytes(data)
        return False

    async def drain(self) -> None:
        await asyncio.sleep(0)
        self.content += self._kept or b""
        self._kept = None

    def finish(self) -> None:
        self.has_finished = True


class Parts(PartSink):
    """Collects parts, whose content it keeps as `Bytes` does."""

    def __init__(self) -> None:
        self.contents: list[tuple[str, bytes]] = []
        self._bytes = Bytes()
        self._name = ""
        self._start = 0

    def begin(self, part: PartBegin) -> None:
        self._name, self._start = part.name, len(self._bytes.content)

    def write(self, data: PartData) -> bool:
        return self._bytes.write(bytes(data.view))

    async def drain(self) -> None:
        await self._bytes.drain()

    def end(self) -> None:
        self.contents.append((self._name, bytes(self._bytes.content[self._start :])))


async def pour(body: bytes, cut: int, sink: Sink) -> None:
    for at in range(0, len(body), cut):
        if not sink.write(body[at : at + cut]):
            await sink.drain()
    sink.finish()


@pytest.mark.parametrize("cut", [7, 1000, 70_000, 1 << 20])
async def test_a_form(cut: int) -> None:
    """Its parts are complete and in order, many in a piece or many pieces in a part."""
    contents = [(str(number), NOISE[: number * number // 20]) for number in range(200)]
    body = b"".join(BEGIN % int(name) + content + b"\r\n" for name, content in contents) + b"--b--\r\n"
    parts = Parts()
    await pour(body, cut, Multipart(b"b", parts))
    assert parts.contents == contents


async def test_a_form_that_ends_in_the_middle() -> None:
    parts = Parts()
    with pytest.raises(MalformedBody, match="ends in the middle"):
        await pour(BEGIN % 1 + b"content", 5, Multipart(b"b", parts))


@pytest.mark.parametrize("cut", [7, 1000, 1 << 20])
async def test_a_compressed_form(cut: int) -> None:
    content = NOISE + bytes(4 * PIECE)
    parts = Parts()
    form = Multipart(b"b", parts)
    await pour(gzip.compress(BEGIN % 1 + content + b"\r\n--b--\r\n", 1), cut, Gunzip(1 << 30, form))
    assert parts.contents == [("1", content)]


async def test_the_next_stage_finishes_too() -> None:
    sink = Bytes()
    await pour(gzip.compress(NOISE), 1000, Gunzip(len(NOISE), sink))
    assert sink.content == NOISE and sink.has_finished


async def test_a_compressed_body_that_becomes_too_large() -> None:
    sink = Bytes()
    with pytest.raises(BodyTooLarge, match=f"at most {10 * PIECE} bytes"):
        await pour(gzip.compress(bytes(100 * PIECE)), 1 << 20, Gunzip(10 * PIECE, sink))
    assert len(sink.content) <= 10 * PIECE
