"""Several uploads in one connection of HTTP/2."""

from __future__ import annotations

import zlib

from ..support import eventually
from .servers import EdgeService
from .ways import WIRE2, along
from .wire import Connection

SIZE = 200_000
PIECE = 7_000
CONTENTS = [bytes([number]) * SIZE for number in range(4)]


@along(WIRE2)
async def test_uploads_that_come_in_turns(connection: Connection, service: EdgeService) -> None:
    """Each goes into a block of its own, whatever comes between its pieces; one that is given up does not hurt."""
    exchanges = [await connection.post("/inspect", content_length=str(SIZE)) for _ in CONTENTS]
    for start in range(0, SIZE, PIECE):
        if start == 10 * PIECE:
            await eventually(lambda: service.figures()["receiving"] == 4 * 10 * PIECE)
            await exchanges.pop().give_up()
            await eventually(lambda: service.figures()["receiving"] == 3 * 10 * PIECE)
        for exchange, content in zip(exchanges, CONTENTS, strict=False):
            piece = content[start : start + PIECE]
            await exchange.send(piece, is_last=start + PIECE >= SIZE)
    for exchange, content in zip(exchanges, CONTENTS, strict=False):
        report = (await exchange.answer()).json()
        assert (report["size"], report["checksum"]) == (SIZE, zlib.crc32(content))
