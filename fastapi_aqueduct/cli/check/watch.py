"""Watches the tasks that go to a step and come from it, where the engine has places for a canary and a shadow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...engine.memory.flow_memory import FlowMemory
from ...engine.scheduling.comparison import Comparison
from ...engine.scheduling.ticket import Ticket
from ...engine.wire.codec import Codec, Encoded
from ...engine.wire.frames import Envelope, Status
from ...engine.wire.patch import join
from ...engine.workers.handle import WorkerHandle
from ...engine.workers.in_flight import Outgoing
from ...task import BaseTask
from .fields import list_fields, offsets_of
from .report import Field

_NOT_RUN = (Status.EXPIRED, Status.PASSED)
"""How tasks are answered that the handler has not seen."""


class Call(NamedTuple):
    """A call of the handler.

    Attributes:
        pid: Process id of the worker.
        tasks: Number of its tasks.
        duration: Seconds that it has taken.
    """

    pid: int
    tasks: int
    duration: float


class StepWatch(Comparison):
    """Looks at the first task on its way into a step and out of it, and at the time of each call.

    It is a `Comparison` and a `Copier` that copies nothing.

    Args:
        memory: The shared memory of the flow.
        seen: Offsets of the blocks that the task has had so far; all watches of a flow have one set.

    Attributes:
        calls: The calls so far.
        entered: The first task as it came, which keeps its blocks; None before.
        fields_in: Its fields; None before, and if it cannot be read in this process.
        fields_out: Its fields on the way out.
        is_waiting: Whether it has no answer yet.
        has_failed: Whether a task has failed here.
        on_answers: Called with answers, before the dispatcher acts on them.
    """

    def __init__(self, memory: FlowMemory, seen: set[int]) -> None:
        super().__init__(1, 1)
        self.calls: list[Call] = []
        self.entered: BaseTask | None = None
        self.fields_in: list[Field] | None = None
        self.fields_out: list[Field] | None = None
        self.has_failed = self.is_waiting = False
        self.on_answers: Callable[[Sequence[Envelope]], None] = lambda envelopes: None
        self._memory = memory
        self._codec = Codec(memory.arena)
        self._content = Encoded(b"", b"", ())  # the first task
        self._number = 0  # of the first task
        self._seen = seen

    @property
    def extras(self) -> bytes:
        """What has travelled beside the fields of the first task."""
        return self._content.extras

    def copy(self, batches: Sequence[Outgoing[Ticket]], now: float) -> None:
        """Look at tasks that have been sent to a worker."""
        if self._number:
            return
        ticket = batches[0][0][0]
        self._number, self._content, self.is_waiting = ticket.id, ticket.content, True
        self.entered = self._decoded(ticket.content)
        if self.entered is not None:
            self.fields_in = self._fields_of(self.entered)

    def release_pairs(self) -> None:
        """Do nothing: no pairs are kept."""

    def note_answers(self, worker: WorkerHandle, envelopes: Sequence[Envelope], calls: int, duration: float) -> None:
        """Look at answers."""
        if calls and any(envelope.status not in _NOT_RUN for envelope in envelopes):
            self.calls.append(Call(worker.pid, -(-len(envelopes) // calls), duration))
        for envelope in envelopes:
            self.has_failed = self.has_failed or envelope.status == Status.ERROR
            self.is_waiting = self.is_waiting and envelope.id != self._number
            if envelope.id == self._number and self.fields_out is None and envelope.status in (Status.OK, Status.PATCH):
                self._look_at_answer(worker, envelope)
        self.on_answers(envelopes)

    def _look_at_answer(self, worker: WorkerHandle, envelope: Envelope) -> None:
        blocks = envelope.content.blocks
        ledger = self._memory.ledger
        if ledger.find_unknown(blocks, worker.region) is not None:
            return  # the dispatcher will refuse it
        # Not dropped at once: the dispatcher, which is next, would find a block that is free.
        ledger.hold(blocks)
        asyncio.get_running_loop().call_soon(ledger.drop, blocks)
        if envelope.status == Status.PATCH:
            task = self._decoded(join(self._content, [envelope.content]))
        else:
            task = self._decoded(envelope.content._replace(kind=self._content.kind))
        if task is not None:
            self.fields_out = self._fields_of(task)

    def _fields_of(self, task: BaseTask) -> list[Field]:
        fields = list(list_fields(task, self._memory.arena, self._seen))
        self._seen |= offsets_of(task, self._memory.arena)
        return fields

    def _decoded(self, content: Encoded) -> BaseTask | None:
        try:
            return self._codec.decode(content)
        except Exception:  # of a class that only workers can rebuild
            return None

    def release(self) -> None:
        """Drop the task, which keeps shared memory."""
        self.entered = None
