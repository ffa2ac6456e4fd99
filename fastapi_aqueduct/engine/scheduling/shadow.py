"""The traffic of a shadow: copies of tasks, whose answers go to no caller."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...exceptions import WorkerDied
from ...reports import TaskPair
from ..marks import NO_MARKS, Marks
from ..memory.ledger import Ledger
from ..statistics import TrialReport, WorkerRole, WorkerState
from ..wire.codec import Codec, Encoded
from ..wire.frames import Batch, Envelope, Kind, ProtocolError, Status, unpack_batches
from ..workers.handle import WorkerHandle
from ..workers.in_flight import Outgoing
from ..workers.pool import PoolObserver
from .comparison import Comparison
from .pairs import Pair, Pairs, T
from .stage import Stage
from .ticket import Ticket

_NOT_RUN = (Status.EXPIRED, Status.PASSED)

AHEAD = 2
"""Calls for which a shadow has copies in hand at least: one that it makes and one that follows."""


@dataclass(slots=True, eq=False)
class Copy:
    """A copy of a task, as `Sendable` and `Parcel`.

    Attributes:
        id: The number of the task.
        deadline: Its deadline.
        step: Its step.
        content: The task as it travels. Its blocks are held until the shadow has answered.
        marks: What was to be known of the task while it waited.
    """

    id: int
    deadline: float
    step: int
    content: Encoded
    marks: Marks = NO_MARKS
    status: int = int(Status.OK)
    deaths: int = 0
    is_waiting: bool = False
    is_settled: bool = False
    holder: int = 0
    sent_at: float = 0.0


class ShadowTraffic(Comparison):
    """Sends a shadow copies of the tasks that workers of the step get, as many as it can work on.

    Args:
        stage: The step.
        version: The version of the shadow.
        ledger: The holds on blocks.
        codec: Decodes answers.
        rest: Receives the other frames of the shadow.
        forget: Releases what a worker has held that is gone.
        flow: Name of the flow.
        keep: How many pairs of answers are held until they are read.
    """

    role = WorkerRole.SHADOW

    def __init__(
        self,
        stage: Stage,
        version: int,
        ledger: Ledger,
        codec: Codec,
        rest: PoolObserver,
        forget: Callable[[WorkerHandle], None],
        flow: str,
        keep: int,
    ) -> None:
        super().__init__(stage.pool.spec.version, version)
        self._stage = stage
        self._ledger = ledger
        self._rest = rest
        self._forget = forget
        self._pairs = Pairs(ledger, codec, f"step {stage.name} of flow {flow}", flow, keep)
        self._worker: WorkerHandle | None = None
        self._skipped = self._skipped_writable = 0

    @property
    def observer(self) -> PoolObserver:
        """This object: the dispatcher does not know the copies."""
        return self

    def note_ready(self, worker: WorkerHandle) -> None:
        """Send it copies from now on."""
        self._worker = worker
        self._stage.copier = self._stage.comparison = self

    def end(self) -> None:
        """Send it no more, and drop the answers that were not read."""
        self._worker = None
        self._stage.copier = self._stage.comparison = None
        self._pairs.end()

    def report(self) -> TrialReport:
        """Return what both sides have done."""
        return replace(
            super().report(),
            skipped=self._skipped,
            skipped_writable=self._skipped_writable,
            pairs_dropped=self._pairs.dropped,
            role=self.role,
        )

    async def pop_pair(self, loop: AbstractEventLoop) -> TaskPair | None:
        """Remove and return the oldest pair of answers; see `Pairs.pop`."""
        return await self._pairs.pop(loop)

    async def pop_with(self, loop: AbstractEventLoop, read: Callable[[Pair], T]) -> T | None:
        """Remove the oldest pair of answers and return what a function makes of it; see `Pairs.pop_with`."""
        return await self._pairs.pop_with(loop, read)

    def release_pairs(self) -> None:
        """Drop the answers that wait to be read."""
        self._pairs.clear()

    def copy(self, batches: Sequence[Outgoing[Ticket]], now: float) -> None:
        """Copy tasks that have been sent to a worker, as many as the shadow can have in hand."""
        outgoing: list[Outgoing[Copy]] = []
        worker = self._worker
        for tickets, *_ in batches:
            has_room = worker is None or self._stage.can_join(tickets, worker)
            copies = self._make_copies(tickets, self._room() if has_room else 0)
            if copies and worker is not None:
                outgoing.append(worker.in_flight.put(copies, worker.pid, now))
        if outgoing and worker is not None:
            worker.send_tasks(outgoing, self._ledger.pop_released(worker.region))

    def receive(self, worker: WorkerHandle, kind: Kind, payload: bytes) -> None:
        """Handle a frame from the shadow.

        Raises:
            ProtocolError: The frame makes no sense.
        """
        if kind is Kind.ANSWERS:
            for batch in unpack_batches(payload):
                self._complete(worker, batch)
        elif kind is Kind.ITEMS:
            raise ProtocolError("a shadow has no streams")
        else:
            self._rest.receive(worker, kind, payload)

    def note_workers(self, index: int) -> None:
        """Do nothing: the pool tells the dispatcher."""

    def remove(self, worker: WorkerHandle, error: WorkerDied) -> bool:
        """Release the copies in the hands of a shadow that is gone."""
        for copies in worker.in_flight.take_all(0):
            for copy in copies:
                self._drop(copy)
        self._forget(worker)
        return False

    def note_answers(self, worker: WorkerHandle, envelopes: Sequence[Envelope], calls: int, duration: float) -> None:
        """Count answers that callers get, and keep those whose copies are answered, too."""
        super().note_answers(worker, envelopes, calls, duration)
        for envelope in envelopes:
            if envelope.id not in self._pairs:
                continue
            is_known = self._ledger.find_unknown(envelope.content.blocks, worker.region) is None
            if is_known and envelope.status not in _NOT_RUN:
                self._pairs.note(envelope, duration, is_candidate=False)
            else:
                self._pairs.discard(envelope.id)

    def _room(self) -> int:
        """Count the tasks that the shadow may get now."""
        worker = self._worker
        if worker is None or worker.state is not WorkerState.READY:
            return 0
        in_flight = worker.in_flight
        most = in_flight.prefetch if in_flight.places else max(AHEAD, in_flight.prefetch)
        return (most - in_flight.calls) * self._stage.pool.step.call_size

    def _make_copies(self, tickets: Sequence[Ticket], room: int) -> list[Copy]:
        copies: list[Copy] = []
        for ticket in tickets:
            content = ticket.content
            if any(ref.shared for ref in content.blocks):
                self._skipped_writable += 1
            elif len(copies) >= room or ticket.is_suspect or ticket.id in self._pairs:
                self._skipped += 1
            else:
                self._ledger.hold(content.blocks)
                self._pairs.begin(ticket.id, content, self._stage.sends_patches)
                copies.append(Copy(ticket.id, ticket.deadline, ticket.step, content, ticket.marks))
        return copies

    def _complete(self, worker: WorkerHandle, batch: Batch) -> None:
        envelopes, work, _, number = batch
        for envelope in envelopes:
            unknown = self._ledger.find_unknown(envelope.content.blocks, worker.region)
            if unknown is not None:
                raise ProtocolError(f"there is no block of {unknown.size} bytes at {unknown.offset}")
        has_run = any(envelope.status not in _NOT_RUN for envelope in envelopes)
        copies, duration, _, calls = worker.in_flight.complete(number, envelopes, work, time.monotonic(), has_run)
        self.candidate.note(envelopes, calls, duration)
        for copy, envelope in zip(copies, envelopes, strict=True):
            blocks = envelope.content.blocks
            self._ledger.hold(blocks)  # also new ones: their release is then reported to the shadow
            if envelope.status in _NOT_RUN:
                self._skipped += 1
                self._pairs.discard(copy.id)
            else:
                self._pairs.note(envelope, duration, is_candidate=True)
            self._ledger.drop(copy.content.blocks)
            self._ledger.drop(blocks)

    def _drop(self, copy: Copy) -> None:
        self._ledger.drop(copy.content.blocks)
        self._pairs.discard(copy.id)
