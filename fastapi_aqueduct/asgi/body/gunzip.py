"""Decompresses a body in small steps: a few bytes can cause much work, or become many bytes."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator

from ..errors import MalformedBody
from .limits import check_size
from .sink import Sink

PIECE = 256 << 10
"""Bytes that are decompressed in one turn of the event loop."""

INPUT = 16 << 10
"""Compressed bytes that are read in one turn: the costliest are blocks without content."""

MEMBERS_PER_TURN = 16
"""Members that end in one turn."""

FREE_MEMBERS = 64
"""Members of any size that a stream may have: files may be concatenated."""

LEAST_MEMBER = 1024
"""Compressed bytes that further members must have on average."""

_GZIP = zlib.MAX_WBITS | 16


class Gunzip(Sink):
    """The stage that decompresses a body, one piece in each turn of the event loop.

    Args:
        max_size: The most bytes that the body may have.
        sink: The next stage.
    """

    def __init__(self, max_size: int, sink: Sink) -> None:
        self._decoder = GzipDecoder()
        self._max_size = max_size
        self._size = 0
        self._sink = sink
        self._kept: bytes | bytearray = b""

    def write(self, data: bytes | bytearray) -> bool:
        """Keep a piece, since even a small one may be a turn's work; see `Sink`."""
        self._kept = data
        return False

    async def drain(self) -> None:
        """Decompress the kept piece, some of it in each turn of the event loop."""
        for piece in self._decoder.pieces(self._kept):
            self._size += len(piece)
            check_size(self._size, self._max_size)
            if piece and not self._sink.write(piece):
                await self._sink.drain()
            await asyncio.sleep(0)
        self._kept = b""

    def finish(self) -> None:
        """Check that the stream is complete."""
        self._decoder.finish()
        self._sink.finish()


class GzipDecoder:
    """Decompresses a gzip stream of one or more members."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=_GZIP)
        self._members = 1
        self._consumed = 0

    def pieces(self, data: bytes | bytearray) -> Iterator[bytes]:
        """Decompress the next bytes of the stream.

        Yields:
            As much as is decompressed in one turn of the event loop; it may be empty.

        Raises:
            MalformedBody: The stream is no gzip, or has far more members than its size explains.
        """
        rest = memoryview(data)
        is_full = False
        # After a full piece the stream may have more, even when it has read all of the data.
        while rest or (is_full and not self._stream.eof):
            piece, rest = self._turn(rest)
            is_full = len(piece) == PIECE
            yield piece

    def finish(self) -> None:
        """Check that the stream is complete.

        Raises:
            MalformedBody: Its end is missing.
        """
        if not self._stream.eof:
            raise MalformedBody("The compressed body ends in the middle.")

    def _turn(self, data: memoryview) -> tuple[bytes, memoryview]:
        parts: list[bytes] = []
        missing, last = PIECE, self._members + MEMBERS_PER_TURN
        end = max(0, len(data) - INPUT)
        while missing and (len(data) > end or not parts):
            if self._stream.eof:
                if self._members == last:
                    break
                self._begin_member()
            given = data[: len(data) - end]
            part = self._decompress(given, missing)
            left = len(self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail)
            data = data[len(given) - left :]
            self._consumed += len(given) - left
            parts.append(part)
            missing -= len(part)
        return b"".join(parts), data

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > FREE_MEMBERS + self._consumed // LEAST_MEMBER:
            raise MalformedBody(f"The compressed body has {self._members} members, which are nearly empty.")
        self._stream = zlib.decompressobj(wbits=_GZIP)

    def _decompress(self, data: memoryview, most: int) -> bytes:
        try:
            return self._stream.decompress(data, most)
        except zlib.error as exc:
            raise MalformedBody("The body is not compressed with gzip as its Content-Encoding says.") from exc
