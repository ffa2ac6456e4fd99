"""RemoteRunner: passes tasks on to an actor and answers back; it unpickles neither."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Iterator

from ...memory.layout import Ref
from ...wire.codec import Encoded
from ...wire.failures import encode_error
from ...wire.frames import Batch, Envelope, Kind, Status, pack_batches, pack_offsets, unpack_batches
from ..hand import Hand
from ..worker import Worker
from .link import Link
from .message import Buffer, Frames, not_shareable

_RELAYED = frozenset({Kind.CANCEL, Kind.GRANT, Kind.LEVELS, Kind.TRIM, Kind.RECLAIM, Kind.CHECK})
"""Frames of the API process that the worker in the actor gets, too."""


_FOR_HANDLER = frozenset({Kind.CANCEL, Kind.GRANT, Kind.CHECK})
"""Those of them that concern the handler and its calls, none of which is here."""


class RemoteWorker(Worker):
    """Copies blocks out of the shared memory of the flow and into it, and keeps the frames that the actor is to get.

    Attributes:
        relayed: Those frames.
    """

    relayed: Frames

    def process(self, frames: list[tuple[Kind, bytes]]) -> None:
        """Do what the API process asks for; see `Worker.process`."""
        self.relayed += [frame for frame in frames if frame[0] in _RELAYED]
        super().process([frame for frame in frames if frame[0] not in _FOR_HANDLER])

    def contents(self, envelope: Envelope) -> list[Buffer]:
        """Return the contents of the blocks of a task, for as long as it is in hand."""
        return [Buffer(self._arena.write(ref).toreadonly()) for ref in envelope.content.blocks]

    def adopt(self, envelope: Envelope, task: Envelope, contents: Iterator[Buffer]) -> Envelope:
        """Return an answer, or an item, with its blocks in the shared memory of the flow.

        Args:
            envelope: The answer or item.
            task: The task as it came.
            contents: The contents of its blocks, for those that are not the task's.
        """
        content = envelope.content
        new = [None if ref.shared else next(contents).view for ref in content.blocks]

        def copy(content: Encoded) -> tuple[bytes, tuple[Ref, ...]]:
            return content.body, self._copy(content.blocks, new)

        if content.blocks:
            try:
                body, blocks = self.fit(copy, content)
            except Exception as exc:
                content = Encoded(b"", encode_error(exc), ())
                return Envelope(envelope.id, task.deadline, envelope.step, Status.ERROR, content)
            self._tenant.publish(blocks)
            content = Encoded(content.kind, body, blocks, content.extras)
        return envelope._replace(deadline=task.deadline, content=content)

    def _copy(self, refs: tuple[Ref, ...], contents: list[memoryview | None]) -> tuple[Ref, ...]:
        """Return the blocks; those with contents are new."""
        blocks: list[Ref] = []
        new: list[Ref] = []
        try:
            for ref, view in zip(refs, contents, strict=True):
                if view is None:
                    blocks.append(ref._replace(shared=False))
                    continue
                block = self._arena.allocate(ref.size)
                new.append(block)
                blocks.append(block)
                self._arena.write(block)[:] = view
        except BaseException:
            for block in new:
                self._arena.free(block.offset)
            raise
        return tuple(blocks)


class RemoteRunner:
    """Passes tasks on to the worker in an actor, and its answers and items back.

    A plain handler makes one call after the other, in the order of the batches, so it works on the oldest batch without
    an answer. Where calls run side by side, the actor reports on them.

    Args:
        worker: Exchanges frames with the API process.
        link: Exchanges them with the actor.

    Attributes:
        hand: No tasks: what they ask for happens in the actor.
    """

    def __init__(self, worker: RemoteWorker, link: Link) -> None:
        self.hand = Hand(worker)
        self._worker = worker
        self._link = link
        self._in_hand: dict[int, dict[int, Envelope]] = {}  # by the number of the batch and the id of the task
        self._current = 0  # the first task of the batch that a plain handler works on
        self._poll = select.poll()
        self._poll.register(worker.channel.fileno(), select.POLLIN)
        self._poll.register(link.fileno(), select.POLLIN)

    def run(self) -> None:
        """Work until the API process sends STOP and all tasks are answered.

        Raises:
            EOFError: The API process has ended.
        """
        worker = self._worker
        # No call runs in this process, so its threads notice the end of the API process at once.
        worker.parent_death_signal.disarm()
        while worker.pending or self._in_hand or not worker.is_stopping:
            self._push()
            self._note()
            worker.flush()
            if self._in_hand or not worker.is_stopping:
                self._wait()

    def _wait(self) -> None:
        for fd, _ in self._poll.poll():
            if fd == self._link.fileno():
                self._take_reports()
            else:
                self._worker.look()

    def _push(self) -> None:
        """Send the tasks and the other frames that have arrived."""
        worker = self._worker
        batches: list[Batch] = []
        buffers: list[Buffer] = []
        while worker.pending:
            batch = worker.pending.popleft()
            envelopes = [envelope for envelope in batch.envelopes if self._may_travel(envelope, batch.number)]
            if envelopes:
                self._in_hand[batch.number] = {envelope.id: envelope for envelope in envelopes}
                batches.append(batch._replace(envelopes=envelopes))
                buffers += [buffer for envelope in envelopes for buffer in worker.contents(envelope)]
        frames: Frames = [(Kind.TASKS, pack_batches(batches))] if batches else []
        frames += worker.relayed
        worker.relayed = []
        if frames:
            self._link.push(frames, buffers)

    def _may_travel(self, envelope: Envelope, number: int) -> bool:
        """Tell whether a task can be sent; else answer it."""
        if not any(ref.shared for ref in envelope.content.blocks):
            return True
        content = Encoded(b"", encode_error(not_shareable()), ())
        answer = Envelope(envelope.id, envelope.deadline, -1, Status.ERROR, content)
        self._worker.answers.append(Batch([answer], 0.0, 0, number))
        return False

    def _take_reports(self) -> None:
        for report in self._link.reports():
            contents = iter(report.buffers)
            for kind, payload in report.frames:
                for batch in unpack_batches(payload) if kind in (Kind.ANSWERS, Kind.ITEMS) else ():
                    if kind is Kind.ANSWERS:
                        self._answer(batch, contents)
                    else:
                        self._pass_items(batch, contents)
            if self._worker.setup.places:
                id, seconds = report.call
                self._worker.note_call(id, time.monotonic() - seconds)

    def _answer(self, batch: Batch, contents: Iterator[Buffer]) -> None:
        tasks = self._in_hand.get(batch.number, {})
        answers: list[Envelope] = []
        for envelope in batch.envelopes:
            task = tasks.pop(envelope.id, None)
            if task is None:  # it has failed here
                _skip(envelope, contents)
            else:
                answers.append(self._worker.adopt(envelope, task, contents))
        if answers:
            self._worker.answers.append(batch._replace(envelopes=answers))
        if not tasks:
            self._in_hand.pop(batch.number, None)

    def _pass_items(self, batch: Batch, contents: Iterator[Buffer]) -> None:
        """Pass items on. The worker in the actor keeps the windows of streams."""
        numbers = {id: number for number, tasks in self._in_hand.items() for id in tasks}
        has_blocks = False
        for envelope in batch.envelopes:
            has_blocks = has_blocks or bool(envelope.content.blocks)
            if envelope.id not in numbers:
                _skip(envelope, contents)
                continue
            item = self._worker.adopt(envelope, envelope, contents)
            if item.status:
                self._fail(numbers.pop(item.id), item)
            else:
                self._worker.items.append(item)
        if has_blocks:
            self._link.push([], [])  # takes along which blocks of the actor are free again

    def _fail(self, number: int, answer: Envelope) -> None:
        """Fail a task whose item does not fit into the shared memory of the flow, as a local worker does."""
        task = self._in_hand[number].pop(answer.id)
        self._worker.answers.append(Batch([answer._replace(deadline=task.deadline)], 0.0, 0, number))
        self._worker.relayed.append((Kind.CANCEL, pack_offsets([answer.id])))
        if not self._in_hand[number]:
            del self._in_hand[number]

    def _note(self) -> None:
        """Note with which task a plain call runs, and since when; or that none runs."""
        worker = self._worker
        if worker.setup.places and self._in_hand:
            return
        current = next((id for tasks in self._in_hand.values() for id in tasks), 0)
        if current != self._current:
            self._current = current
            worker.note_call(current, time.monotonic() if current else math.inf)


def _skip(envelope: Envelope, contents: Iterator[Buffer]) -> None:
    """Drop the contents of the blocks of an answer, or item, that has come too late."""
    for ref in envelope.content.blocks:
        if not ref.shared:
            next(contents)
