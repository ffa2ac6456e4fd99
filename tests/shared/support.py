"""The two ends of a connection between an API process and a pipeline process, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator

from fastapi_aqueduct.engine.memory.layout import Ref
from fastapi_aqueduct.engine.wire.channel import Channel, make_pair
from fastapi_aqueduct.engine.wire.frames import Kind, pack

Receive = Callable[[Kind, bytes], None]


class End:
    """One end: sends frames, and passes on what arrives.

    Attributes:
        number: The number of the API process.
        receive: Called with each frame that arrives.
        is_stuck: Whether it counts as behind.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.receive: Receive = lambda kind, payload: None
        self.is_stuck = False
        self.has_ended = asyncio.Event()
        self.channel: Channel

    def post(self, kind: Kind, payload: bytes) -> None:
        """Send a frame."""
        self.channel.send(pack(kind, payload))

    def lend(self, blocks: Iterable[Ref]) -> None:
        """Lend nothing: there is no memory."""

    def is_behind(self) -> bool:
        """Tell whether the other end does not read."""
        return self.is_stuck

    def is_swamped(self) -> bool:
        """Tell whether the other end does not read."""
        return self.is_stuck

    def on_frames(self, frames: list[tuple[Kind, bytes]]) -> None:
        for kind, payload in frames:
            self.receive(kind, payload)


@contextlib.contextmanager
def connection(number: int = 1) -> Iterator[tuple[End, End]]:
    """Connect an API process with a pipeline process; the ends are in this order."""
    loop = asyncio.get_running_loop()
    ends = End(number), End(number)
    for end, sock in zip(ends, make_pair(), strict=True):
        end.channel = Channel(sock, end.on_frames, end.has_ended.set, lambda error: None)
        end.channel.attach(loop)
    try:
        yield ends
    finally:
        for end in ends:
            end.channel.close()
