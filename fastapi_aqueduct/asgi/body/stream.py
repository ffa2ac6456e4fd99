"""The body of a request as it arrives, judged by its headers first and watched while it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from starlette.requests import Request

from ..errors import BodyLengthMismatch, BodyTooLarge, UnsupportedBody
from ..uvicorn import Tap
from .gunzip import Inflation
from .limits import BodyRules, announced_size
from .pace import Pace

PIECES_PER_TURN = 64
"""Pieces that are handled in one turn of the event loop, however many a server has ready."""


class Sink(Protocol):
    """Where a body goes."""

    def take(self, data: bytes | bytearray) -> None:
        """Take in the next piece, without waiting for anything."""

    def is_full(self) -> bool:
        """Tell whether pieces wait for `settle`."""

    async def settle(self) -> None:
        """Find room for the pieces that wait."""


class Body:
    """The body of a request.

    Args:
        request: Its body must not have been read.
        rules: What the endpoint takes.

    Attributes:
        limits: The guards that apply.
        max_size: The most bytes it may have, compressed or not.
        size: How many bytes it will have; None when nobody said.

    Raises:
        BodyError: The headers say that it cannot be used; nothing of it was asked for.
    """

    def __init__(self, request: Request, rules: BodyRules) -> None:
        self._request = request
        self._is_compressed = _is_compressed(request, rules.accept_gzip)
        self.limits = rules.limits_of(request.scope)
        self.max_size = rules.max_size(request.scope)
        self._announced = announced_size(request.scope)
        if self._announced is not None and self._announced > self.max_size:
            raise self._too_large()
        self.size = None if self._is_compressed else self._announced
        self._received = 0

    async def pour(self, sink: Sink, pace: Pace) -> None:
        """Give the body to a sink as it comes, decompressed.

        Raises:
            BodyError: It is not what the headers say, or too large.
            ClientDisconnect: The client went away.
            Exception: What the sink raises.
        """
        if self._is_compressed:
            await self._pour_decompressed(sink, pace)
        elif Tap.fits(self._request):
            await self._pour_tapped(sink, pace)
        else:
            await self._pour_received(sink, pace)
        if self._announced is not None and self._received < self._announced:
            raise BodyLengthMismatch(f"The Content-Length is {self._announced}, but {self._received} bytes came.")

    async def _pour_tapped(self, sink: Sink, pace: Pace) -> None:
        def take(data: bytes | bytearray) -> None:
            self._count(data)
            sink.take(data)

        with Tap(self._request, take, sink.is_full) as tap:
            has_more = True
            while has_more:
                has_more = await tap.wait()
                pace.note(self._received)
                if sink.is_full():
                    await sink.settle()

    async def _pour_received(self, sink: Sink, pace: Pace) -> None:
        async with aclosing(self._chunks(pace)) as chunks:
            async for chunk in chunks:
                sink.take(chunk)
                if sink.is_full():
                    await sink.settle()

    async def _pour_decompressed(self, sink: Sink, pace: Pace) -> None:
        inflation, size = Inflation(), 0
        async with aclosing(self._chunks(pace)) as chunks:
            async for chunk in chunks:
                for piece in inflation.pieces(chunk):
                    size += len(piece)
                    if size > self.max_size:
                        raise self._too_large()
                    if piece:
                        sink.take(piece)
                    if sink.is_full():
                        await sink.settle()
                    await asyncio.sleep(0)
        inflation.finish()

    async def _chunks(self, pace: Pace) -> AsyncGenerator[bytes, None]:
        # Not `request.receive`: if FastAPI has read the body for somebody else, the stream gives it once more.
        async with aclosing(self._request.stream()) as chunks:
            number = 0
            async for chunk in chunks:
                self._count(chunk)
                pace.note(self._received)
                if chunk:
                    yield chunk
                number += 1
                if number % PIECES_PER_TURN == 0:
                    await asyncio.sleep(0)

    def _count(self, data: bytes | bytearray) -> None:
        received = self._received = self._received + len(data)
        if self._announced is not None and received > self._announced:
            raise BodyLengthMismatch(f"The Content-Length is {self._announced}, but {received} or more bytes came.")
        if received > self.max_size:
            raise self._too_large()

    def restrict(self, max_size: int) -> None:
        """Lower the limit: to what a body that is one upload may have, or to all the memory there is.

        Args:
            max_size: The most bytes that the body may have.

        Raises:
            BodyTooLarge: The body will have more.
        """
        self.max_size = min(self.max_size, max_size)
        if self._announced is not None and self._announced > self.max_size:
            raise self._too_large()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body may have at most {self.max_size} bytes.")




def _is_compressed(request: Request, accept_gzip: bool) -> bool:
    coding = request.headers.get("content-encoding", "identity").strip(" \t").lower()
    if coding in ("identity", ""):
        return False
    if coding not in ("gzip", "x-gzip") or not accept_gzip:
        known = "gzip" if accept_gzip else "identity"
        raise UnsupportedBody(f"The Content-Encoding may be {known} only.", {"Accept-Encoding": known})
    return True
