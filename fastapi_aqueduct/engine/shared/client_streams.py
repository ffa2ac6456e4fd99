"""The streams of an API process whose pipeline is another process."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..scheduling.deadlines import Deadlines
from ..scheduling.outlet import Outlet, StreamTicket
from ..scheduling.streams import ItemSpans, Streams
from ..scheduling.ticket import Ticket
from ..wire.frames import Kind, ProtocolError, pack, pack_offsets, unpack_batches
from .client_memory import ClientMemory


class ClientStreams(Streams):
    """Delivers the items that a pipeline process sends.

    Args:
        name: Name of the flow.
        memory: The shared memory.
        tickets: As for `Streams`, like the following.
        deadlines: As above.
        settle: As above.
        spans: As above.
        send: Sends packed frames to the pipeline process.
    """

    def __init__(
        self,
        name: str,
        memory: ClientMemory,
        tickets: dict[int, Ticket],
        deadlines: Deadlines[Ticket],
        settle: Callable[[Ticket, str, Exception | None], None],
        spans: ItemSpans,
        send: Callable[[bytes], None],
    ) -> None:
        super().__init__(name, memory.arena, memory, tickets, deadlines, settle, spans)
        self._memory = memory
        self._send = send

    def receive(self, payload: bytes) -> None:
        """Deliver the items of a frame.

        Raises:
            ProtocolError: The frame makes no sense.
        """
        now = time.monotonic()
        for batch in unpack_batches(payload):
            for envelope in batch.envelopes:
                item = envelope.content
                self._memory.accept(item.blocks)
                ticket = self._tickets.get(envelope.id)
                if ticket is None:  # it has ended while the item was on its way
                    self._memory.drop(item.blocks)
                elif isinstance(ticket, StreamTicket) and item.body:
                    self._deliver("of another process", ticket, ticket, item, now)
                else:
                    raise ProtocolError(f"an item of task {envelope.id}, which has none")

    def grant(self, number: int, outlet: Outlet) -> None:
        """Let the worker of a stream send more; see `Streams.grant`."""
        weight, outlet.consumed = outlet.consumed, 0
        if number in self._tickets:
            self._send(pack(Kind.GRANT, pack_offsets([number, weight])))
