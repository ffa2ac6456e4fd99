"""What the API process makes of the frames of a worker that has a stream and another task in hand."""

from __future__ import annotations

import asyncio
import contextlib
import time

from fastapi_aqueduct import FlowStep
from fastapi_aqueduct.engine.scheduling.outlet import Outlet, StreamTicket
from fastapi_aqueduct.engine.scheduling.ticket import Ticket
from fastapi_aqueduct.engine.wire.frames import FrameReader, Kind, ProtocolError

from ..engine.test_dispatcher import Peer
from ..handlers import Each, Job
from .attempt import pieces

READ = (Kind.ITEMS, Kind.RETAINED, Kind.RELEASED, Kind.FULL, Kind.TRIMMED)
"""Kinds of frames that the fuzzed flow reads. It reads no answers: they would be unpickled."""


class StreamTarget:
    """A flow with one worker. Task 1 is a stream, task 2 is not.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def receive(self, data: bytes) -> None:
        """Receive frames in pieces, then lose the worker: frames are processed, or the protocol is broken."""
        self._loop.run_until_complete(self._receive(data))

    async def _receive(self, data: bytes) -> None:
        sizes, _, sent = data.partition(b"\n")
        with contextlib.closing(Peer(FlowStep(Each(print), batch_size=2, batch_timeout=60, max_retries=0))) as peer:
            outlet = Outlet(60.0)
            now = time.monotonic()
            stream, task = Job(), Job()
            encode = peer.dispatcher.codec.encode
            peer.dispatcher.submit(StreamTicket(0, stream, outlet, encode(stream), 0, now + 60, now), 0)
            future: asyncio.Future[None] = self._loop.create_future()
            peer.dispatcher.submit(Ticket(0, task, future, encode(task), 0, now + 60, now), 0)
            await asyncio.sleep(0)
            (batch,) = peer.receive()
            assert [(envelope.id, envelope.status) for envelope in batch.envelopes] == [(1, 3), (2, 0)]
            reader = FrameReader()
            with contextlib.suppress(ProtocolError):
                for piece in pieces(sent, sizes):
                    for kind, payload in reader.feed(piece):
                        if kind in READ:
                            peer.dispatcher.receive(peer.workers[0], kind, payload)
            has_items = outlet.has_items
            peer.note_call(1)
            peer.lose()
            assert outlet.done() and future.done()
            future.exception()
            peer.dispatcher.streams.end(1, outlet)
            assert has_items or not len(outlet)
            assert peer.held_blocks() == []
