"""Reads the body of a request and passes it to the stages of an upload."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from starlette.requests import Request

from ..uvicorn import Tap
from .sink import Sink

PIECES_PER_TURN = 64
"""Pieces that are handled in one turn of the event loop, however many a server has ready."""


async def stream_body(request: Request, sink: Sink) -> None:
    """Pass the body of a request to a stage, to its end.

    Args:
        request: Its body must not have been read.
        sink: The first stage.

    Raises:
        ClientDisconnect: The client went away.
        Exception: What the stages raise.
    """
    if Tap.fits(request):
        await Tap(request, sink.write, sink.drain).run()
    else:
        await _stream_messages(request, sink)
    sink.finish()


async def _stream_messages(request: Request, sink: Sink) -> None:
    # Not `request.receive`: if FastAPI has read the body already, the stream returns it once more.
    async with aclosing(request.stream()) as pieces:
        number = 0
        async for piece in pieces:
            if piece and not sink.write(piece):
                await sink.drain()
            number += 1
            if number % PIECES_PER_TURN == 0:
                await asyncio.sleep(0)
