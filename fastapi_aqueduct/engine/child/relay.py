"""Relay: takes the place of the API process for the worker in an actor, and passes on what its stand-in sends."""

from __future__ import annotations

import math
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from ..memory.arena import Arena
from ..memory.layout import Layout, Ref
from ..memory.ledger import Ledger
from ..memory.mapping import Mapping
from ..wire.codec import Encoded
from ..wire.failures import encode_error
from ..wire.frames import (
    READ_SIZE,
    Batch,
    Envelope,
    FrameReader,
    Kind,
    Status,
    pack,
    pack_batches,
    pack_offsets,
    unpack_batches,
    unpack_offsets,
)
from .remote.message import Buffer, Frames, Message, Report, not_shareable

WORKER_REGION = 1
"""The region that the worker allocates in; the relay has region 0."""


class _Task(NamedTuple):
    """A task that the worker has in hand.

    Attributes:
        blocks: Its blocks here.
        originals: Its blocks at the stand-in, by the offset of those here.
        deadline: Its deadline, on the clock of the stand-in's machine.
    """

    blocks: tuple[Ref, ...]
    originals: dict[int, Ref]
    deadline: float


class Relay:
    """Passes frames on, and owns the blocks that the worker has in hand. One thread pushes, one pulls.

    Args:
        sock: The other end of the worker's channel.
        mapping: The shared memory of the actor.
        layout: Its division.
    """

    def __init__(self, sock: socket.socket, mapping: Mapping, layout: Layout) -> None:
        self._socket = sock
        self._mapping = mapping
        self._arena = Arena(mapping, layout, 0, lambda offset: None)
        self._ledger = Ledger(layout, (), self._arena.free, lambda: None)
        self._lock = threading.Lock()  # of all that follows
        self._send_lock = threading.Lock()
        self._tasks: dict[int, _Task] = {}
        self._copied: list[Ref] = []  # what the last report holds
        self._shift = math.inf  # from the clock of the stand-in's machine to that of this one
        self._failure: BaseException | None = None
        self._reader = FrameReader()
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def send(self, frames: bytes) -> None:
        """Send packed frames to the worker."""
        with self._send_lock:
            self._socket.sendall(frames)

    def push(self, message: Message) -> None:
        """Send the frames of a message to the worker. What fails here ends the actor."""
        try:
            with self._lock:
                self._shift = min(self._shift, time.monotonic() - message.sent_at)
                frames = [self._localize(kind, payload, message) for kind, payload in message.frames]
                released = self._ledger.pop_released(WORKER_REGION)
            self.send(_release(released) + b"".join(frames))
        except BrokenPipeError:
            pass  # the worker has ended, which `pull` reports
        except BaseException as exc:
            self._failure = exc
            self._socket.shutdown(socket.SHUT_RDWR)

    def pull(self, timeout: float | None) -> Report:
        """Wait for frames of the worker.

        Args:
            timeout: Seconds after which none are returned; None: never.

        Raises:
            Exception: What has failed in `push`.
        """
        with self._lock:
            self._ledger.drop(self._copied)  # the last report has been sent
            self._copied.clear()
        received, has_ended = self._receive(timeout)
        frames: Frames = []
        buffers: list[Buffer] = []
        with self._lock:
            for kind, payload in received:
                if kind is Kind.ANSWERS or kind is Kind.ITEMS:
                    batches = unpack_batches(payload)
                    frames.append((kind, pack_batches([self._export(kind, batch, buffers) for batch in batches])))
                elif kind is Kind.RETAINED:
                    for offset in unpack_offsets(payload):
                        self._ledger.hold_block(offset)
                elif kind is Kind.RELEASED:
                    for offset in unpack_offsets(payload):
                        self._ledger.drop_block(offset)
                elif kind is not Kind.FULL and kind is not Kind.TRIMMED:
                    frames.append((kind, payload))
            released = self._ledger.pop_released(WORKER_REGION) if Kind.FULL in dict(received) else []
        if released:
            self.send(_release(released))  # the worker waits for it, so it reads
        if has_ended and self._failure is not None:
            raise self._failure
        return Report(frames, buffers, self._call(), has_ended)

    def deadline_of(self, id: int) -> float | None:
        """Return the deadline of a task on the clock of the stand-in's machine; None for one without."""
        deadline = self._tasks[id].deadline
        return deadline if deadline < math.inf else None

    def to_stand_in(self, moment: float) -> float:
        """Return a time of this machine's clock on that of the stand-in's machine."""
        return moment - self._shift

    def _receive(self, timeout: float | None) -> tuple[Frames, bool]:
        while True:
            if not self._poll.poll(None if timeout is None else timeout * 1000):
                return [], False
            try:
                size = self._socket.recv_into(self._buffer)
            except ConnectionResetError:
                size = 0
            if not size:
                return [], True
            if frames := self._reader.feed(self._buffer[:size]):
                return frames, False

    def _call(self) -> tuple[int, float]:
        status = self._arena.status
        return status.task_of(WORKER_REGION), time.monotonic() - status.call_of(WORKER_REGION)

    def _localize(self, kind: Kind, payload: bytes, message: Message) -> bytes:
        """Return a packed frame for the worker, whose blocks are in the memory of the actor."""
        if kind is Kind.TRIM:
            self._arena.trim()
        if kind is not Kind.TASKS:
            return pack(kind, payload)
        contents = iter(message.buffers)
        batches = [
            batch._replace(envelopes=[self._place(envelope, contents) for envelope in batch.envelopes])
            for batch in unpack_batches(payload)
        ]
        return pack(kind, pack_batches(batches))

    def _place(self, envelope: Envelope, contents: Iterator[Buffer]) -> Envelope:
        blocks: list[Ref] = []
        originals: dict[int, Ref] = {}
        for original in envelope.content.blocks:
            ref = self._arena.allocate(original.size)
            self._arena.write(ref)[:] = next(contents).view
            self._ledger.hold([ref])
            blocks.append(ref)
            originals[ref.offset] = original
        self._tasks[envelope.id] = _Task(tuple(blocks), originals, envelope.deadline)
        content = envelope.content._replace(blocks=tuple(blocks))
        return envelope._replace(deadline=envelope.deadline + self._shift, content=content)

    def _export(self, kind: Kind, batch: Batch, buffers: list[Buffer]) -> Batch:
        envelopes = [self._export_task(envelope, buffers) for envelope in batch.envelopes]
        if kind is Kind.ANSWERS:
            for envelope in envelopes:
                self._copied += self._tasks.pop(envelope.id).blocks
        return batch._replace(envelopes=envelopes)

    def _export_task(self, envelope: Envelope, buffers: list[Buffer]) -> Envelope:
        task = self._tasks[envelope.id]
        blocks: list[Ref] = []
        if any(ref.shared for ref in envelope.content.blocks):
            return envelope._replace(status=Status.ERROR, content=Encoded(b"", encode_error(not_shareable()), ()))
        for ref in envelope.content.blocks:
            if ref.offset in task.originals:
                blocks.append(task.originals[ref.offset]._replace(shared=True))
                continue
            self._ledger.hold([ref])
            self._copied.append(ref)
            buffers.append(Buffer(self._arena.write(ref)))
            blocks.append(ref)
        return envelope._replace(content=envelope.content._replace(blocks=tuple(blocks)))


def _release(offsets: list[int]) -> bytes:
    return pack(Kind.RELEASE, pack_offsets(offsets)) if offsets else b""
