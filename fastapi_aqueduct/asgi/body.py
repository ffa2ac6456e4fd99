"""The body of a request as it arrives, judged by its headers first and watched while it comes."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from starlette.requests import Request

from .errors import BodyLengthMismatch, BodyTooLarge, MalformedBody, UnsupportedBody
from .limits import BodyRules
from .pace import Pace

PIECE = 256 << 10
"""Bytes that are decompressed in one turn of the event loop."""


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
        self.max_size = rules.max_size(request.scope, self.limits)
        self._announced = _content_length(request)
        if self._announced is not None and self._announced > self.max_size:
            raise self._too_large()
        self.size = None if self._is_compressed else self._announced

    def chunks(self, pace: Pace) -> AsyncGenerator[bytes, None]:
        """Give the body in pieces, decompressed.

        Raises:
            BodyError: It is not what the headers say, or too large.
            ClientDisconnect: The client went away.
        """
        return self._decompressed(pace) if self._is_compressed else self._received(pace)

    async def _decompressed(self, pace: Pace) -> AsyncGenerator[bytes, None]:
        inflation, size = _Inflation(), 0
        async with aclosing(self._received(pace)) as chunks:
            async for chunk in chunks:
                for piece in inflation.pieces(chunk):
                    size += len(piece)
                    if size > self.max_size:
                        raise self._too_large()
                    yield piece
                    await asyncio.sleep(0)
        inflation.finish()

    async def _received(self, pace: Pace) -> AsyncGenerator[bytes, None]:
        announced, received = self._announced, 0
        # Not `request.receive`: if FastAPI has read the body for somebody else, the stream gives it once more.
        async with aclosing(self._request.stream()) as chunks:
            async for chunk in chunks:
                received += len(chunk)
                if announced is not None and received > announced:
                    raise BodyLengthMismatch(f"The Content-Length is {announced}, but {received} or more bytes came.")
                if received > self.max_size:
                    raise self._too_large()
                pace.note(received)
                if chunk:
                    yield chunk
        if announced is not None and received < announced:
            raise BodyLengthMismatch(f"The Content-Length is {announced}, but {received} bytes came.")

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body may have at most {self.max_size} bytes.")


class _Inflation:
    """Decompresses gzip, never more than a piece at a time: a kilobyte may stand for a megabyte."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        try:
            piece = b""
            # A full piece may not be all that the stream has ready, even when it has taken all of the data.
            while data or (len(piece) == PIECE and not self._stream.eof):
                if self._stream.eof:  # gzip files may be put one behind the other
                    self._stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
                piece = self._stream.decompress(data, PIECE)
                data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
                if piece:
                    yield piece
        except zlib.error as exc:
            raise MalformedBody("The body is not compressed with gzip as its Content-Encoding says.") from exc

    def finish(self) -> None:
        if not self._stream.eof:
            raise MalformedBody("The compressed body ends in the middle.")


def _is_compressed(request: Request, accept_gzip: bool) -> bool:
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("identity", ""):
        return False
    if coding not in ("gzip", "x-gzip") or not accept_gzip:
        known = "gzip" if accept_gzip else "identity"
        raise UnsupportedBody(f"The Content-Encoding may be {known} only.", {"Accept-Encoding": known})
    return True


def _content_length(request: Request) -> int | None:
    value = request.headers.get("content-length")
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal()):
        raise MalformedBody("The Content-Length is not a number.")
    return int(value)
