"""The loop of a worker process: receive, decode, handle, encode, send.

Runs in the child and imports nothing a child does not need: no event loop, no web framework.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ...exceptions import ArenaFull
from ...task import BaseTask, shared_memories
from ..memory.arena import Arena
from ..memory.layout import Ref
from ..memory.mapping import Mapping
from ..system.malloc import keep_freed_memory, trim_heap
from ..wire.channel import WorkerChannel
from ..wire.codec import Codec, Encoded, new_tuple
from ..wire.failures import encode_error
from ..wire.frames import (
    FINISHED,
    FRAME_BUDGET,
    Batch,
    Envelope,
    Kind,
    Status,
    pack_batches,
    pack_offsets,
    unpack_batches,
    unpack_offsets,
)
from .parent_death import ParentDeathSignal, end_group, watch_parent
from .program import Program, read_program
from .return_check import ReturnCheck
from .setup import Setup
from .trace import write_trace_on_faults

ROOM_TIMEOUT = 1.0
"""Seconds to wait for shared memory to become free before a task fails with `ArenaFull`."""

START_FAILURE = 3
"""Exit code of a worker whose `on_start` failed."""

LARGE = 256 << 20
"""Bytes of a buffer that goes back to the system nevertheless."""

AT_EASE = 0.01
"""Seconds without a task after which a worker counts as idle, and would run `on_stop` if the API process ended."""

_NOTHING = Encoded(b"", b"", ())


def main(sock: Any, memory_fd: int, trace_fd: int, lifeline: int, program_fd: int) -> None:
    """Run a worker until it is stopped or the API process is gone.

    Args:
        sock: The worker's end of the channel.
        memory_fd: Descriptor of the shared memory.
        trace_fd: Descriptor of the file for its stack.
        lifeline: Descriptor of a pipe that ends with the API process.
        program_fd: Descriptor of what it runs.
    """
    write_trace_on_faults(trace_fd)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    channel = WorkerChannel(sock)
    os.register_at_fork(after_in_child=channel.close)
    watch_parent(channel.fileno())
    parent_death_signal = ParentDeathSignal(lifeline)
    parent_death_signal.arm()
    try:
        worker = _set_up(channel, memory_fd, program_fd, parent_death_signal)
        worker.run()
        parent_death_signal.arm()  # it leaves to the API process what its handler has left behind
    except (EOFError, BrokenPipeError, ConnectionResetError):
        if channel.is_closed:
            raise
        # The API process is gone. What this process has printed would be lost with it.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        end_group()


def _set_up(channel: WorkerChannel, memory_fd: int, program_fd: int, parent_death_signal: ParentDeathSignal) -> Worker:
    frames = channel.receive()
    try:
        setup = Setup.unpack(frames.pop(0)[1])
        program = read_program(program_fd)
        mapping = Mapping(memory_fd, setup.layout.size)
        worker = Worker(setup, program, channel, mapping, parent_death_signal)
        worker.take(frames)
        worker.returned.check("on_start", program.handler.on_start())  # type: ignore[func-returns-value]
    except BaseException as exc:
        if channel.is_closed:
            raise
        channel.send(Kind.FAILED, encode_error(exc))
        sys.exit(START_FAILURE)
    if channel.is_closed:
        sys.exit()
    channel.send(Kind.READY)
    # Not before: what loading has freed is not needed again.
    keep_freed_memory(setup.kept, min(setup.kept, LARGE))
    return worker


class Worker:
    """Works on batches in the order they come.

    Args:
        setup: What it is told.
        program: What it runs.
        channel: Where batches come from and answers go.
        mapping: The shared memory.
        parent_death_signal: Ends it in the middle of its work when the API process is gone.

    Attributes:
        returned: Looks at what the handler's methods return.
    """

    def __init__(
        self,
        setup: Setup,
        program: Program,
        channel: WorkerChannel,
        mapping: Mapping,
        parent_death_signal: ParentDeathSignal,
    ) -> None:
        self._setup = setup
        self._program = program
        self.returned = ReturnCheck(setup.name, type(program.handler).__qualname__)
        self._channel = channel
        self._parent_death_signal = parent_death_signal
        self._arena = Arena(mapping, setup.layout, setup.region, self._on_view_end)
        self._arena.adopt(setup.blocks)
        self._codec = Codec(self._arena)
        self._pending: deque[Batch] = deque()
        self._answers: list[Batch] = []
        self._flushed_at = 0.0
        self._stopping = False
        self._published = set(setup.blocks)
        self._retained: set[int] = set()
        self._newly_retained: list[int] = []
        self._released: list[int] = []
        shared_memories.append(self._arena)

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            EOFError: The API process is gone.
        """
        try:
            while self._pending or not self._stopping:
                if self._pending:
                    self._answers.append(self._work(self._pending.popleft()))
                if not self._pending or time.monotonic() - self._flushed_at > FRAME_BUDGET:
                    self._flush()
                if not self._pending and not self._stopping:
                    self.take(self._channel.receive(AT_EASE, self._setup.busy_poll) or self._receive_at_ease())
                    self._flushed_at = time.monotonic()
        finally:
            if not self._channel.is_closed:
                self._program.handler.on_stop()

    def _receive_at_ease(self) -> list[tuple[Kind, bytes]]:
        # Not for each pause between two tasks: this costs two system calls.
        self._parent_death_signal.disarm()
        frames = self._channel.receive()
        self._parent_death_signal.arm()
        return frames

    def take(self, frames: list[tuple[Kind, bytes]]) -> None:
        """Take in what the API process has sent."""
        for kind, payload in frames:
            if kind is Kind.TASKS:
                self._pending.extend(unpack_batches(payload))
            elif kind is Kind.RELEASE:
                for offset in unpack_offsets(payload):
                    self._published.discard(offset)
                    self._arena.free(offset)
            elif kind is Kind.TRIM:
                # A caller waits for memory, and a cycle that a handler has made may hold some of it.
                if self._retained and self._arena.collect_garbage():
                    self._flush()
                self._arena.trim()
                self._channel.send(Kind.TRIMMED)
            elif kind is Kind.RECLAIM:
                trim_heap()
            elif kind is Kind.STOP:
                self._stopping = True
                self._parent_death_signal.disarm()  # for on_stop

    def _flush(self) -> None:
        # Before the answers, which let the API process forget the blocks.
        if self._newly_retained:
            self._channel.send(Kind.RETAINED, pack_offsets(self._newly_retained))
            self._newly_retained.clear()
        if self._answers:
            self._channel.send(Kind.ANSWERS, pack_batches(self._answers))
            self._answers.clear()
        if self._arena.mapping.dropped:
            self._arena.collect()
        if self._released:
            self._channel.send(Kind.RELEASED, pack_offsets(self._released))
            self._released.clear()
        self._flushed_at = time.monotonic()

    def _work(self, batch: Batch) -> Batch:
        started = time.monotonic()
        envelopes, _, size = batch
        if size == 1:
            answers = [self._answer_one(envelope) for envelope in envelopes]
        else:
            answers = []
            for start in range(0, len(envelopes), size or len(envelopes)):
                answers += self._answer(envelopes[start : start + size] if size else envelopes)
        if self._arena.mapping.dropped:
            self._arena.collect()
        if self._arena.leases:
            self._note_retained(envelopes)
            self._note_retained(answers)
        return new_tuple(Batch, (answers, time.monotonic() - started, 0))

    def _answer(self, envelopes: list[Envelope]) -> list[Envelope]:
        """Work on what one call of the handler gets."""
        now = time.monotonic()
        self._arena.status.note_call(envelopes[0].id, now)  # before they are unpacked, which may be fatal, too
        decoded = [self._decode(envelope, now) for envelope in envelopes]
        tasks = [task for task in decoded if isinstance(task, BaseTask)]
        failure = self._handle(tasks) if tasks else b""
        if failure and len(tasks) > 1 and self._may_run_again(envelopes):
            # One bad input must not fail its neighbours: everybody again, alone, from an untouched copy.
            for task in tasks:
                _take_failure(task)
            del tasks, decoded
            return [self._answer_one(envelope) for envelope in envelopes]
        return [
            self._finish(envelope, task, failure) if isinstance(task, BaseTask) else task
            for envelope, task in zip(envelopes, decoded, strict=True)
        ]

    def _may_run_again(self, envelopes: list[Envelope]) -> bool:
        # What was shared for writing may be half changed.
        return self._setup.may_run_again and not any(ref.shared for item in envelopes for ref in item.content.blocks)

    def _answer_one(self, envelope: Envelope) -> Envelope:
        now = time.monotonic()
        self._arena.status.note_call(envelope.id, now)
        task = self._decode(envelope, now)
        if not isinstance(task, BaseTask):
            return task
        return self._finish(envelope, task, self._handle([task]))

    def _decode(self, envelope: Envelope, now: float) -> BaseTask | Envelope:
        """Return the task, or the answer to one that cannot be worked on."""
        if envelope.deadline <= now:
            return _end(envelope, Status.EXPIRED)
        try:
            task = self._codec.decode(envelope.content)
        except Exception as exc:
            return _end(envelope, Status.ERROR, encode_error(exc))
        task.expiration_time = envelope.deadline
        return task

    def _handle(self, tasks: list[BaseTask]) -> bytes:
        try:
            value: Any = self._program.handler.handle(*tasks)  # type: ignore[func-returns-value]
            if value is not None:
                self.returned.note(value)
        except BaseException as exc:  # also SystemExit: a request must not end its worker
            if self._channel.is_closed:
                raise
            return encode_error(exc)
        if self._channel.is_closed:
            sys.exit()  # it is a child that the handler has forked, and would be a second worker
        return b""

    def _finish(self, envelope: Envelope, task: BaseTask, failure: bytes) -> Envelope:
        if failure or "_failure" in task.__dict__:
            failed = _take_failure(task)
            return _end(envelope, Status.ERROR, failure or encode_error(failed))
        try:
            step = next_step(self._program.conditions, self._setup.step + 1, task)
            body, blocks = self._encode(task)
        except Exception as exc:
            return _end(envelope, Status.ERROR, encode_error(exc))
        for ref in blocks:
            if self._arena.owns(ref.offset):
                self._published.add(ref.offset)
        kind = b"" if step == FINISHED else envelope.content.kind
        content = new_tuple(Encoded, (kind, body, blocks))
        return new_tuple(Envelope, (envelope.id, envelope.deadline, step, 0, content, b""))

    def _encode(self, task: BaseTask) -> tuple[bytes, tuple[Ref, ...]]:
        deadline = 0.0
        while True:
            try:
                return self._codec.encode_fields(task)
            except ArenaFull as exc:
                now = time.monotonic()
                deadline = deadline or now + ROOM_TIMEOUT
                if now >= deadline or exc.size > self._setup.layout.limit:
                    raise
                self._flush()
                self._arena.trim()
                self._channel.send(Kind.FULL)
                self.take(self._channel.receive(timeout=deadline - now))

    def _note_retained(self, envelopes: list[Envelope]) -> None:
        for envelope in envelopes:
            for ref in envelope.content.blocks:
                if ref.offset in self._arena.leases and ref.offset not in self._retained:
                    self._retained.add(ref.offset)
                    self._newly_retained.append(ref.offset)

    def _on_view_end(self, offset: int) -> None:
        if offset in self._retained:
            self._retained.discard(offset)
            self._released.append(offset)
        elif self._arena.owns(offset) and offset not in self._published:
            self._arena.free(offset)


def next_step(conditions: list[Callable[[Any], Any]], start: int, task: BaseTask) -> int:
    """Find the first step from ``start`` on whose condition the task meets; `FINISHED` when there is none."""
    for index in range(start, len(conditions)):
        if conditions[index](task):
            return index
    return FINISHED


def _take_failure(task: BaseTask) -> Any:
    # An exception that was caught refers to the frame of the handler, and that to the task: as a cycle they would keep
    # its blocks until garbage is collected.
    return task.__dict__.pop("_failure", None)


def _end(envelope: Envelope, status: Status, body: bytes = b"") -> Envelope:
    return Envelope(envelope.id, envelope.deadline, FINISHED, status, Encoded(b"", body, ()) if body else _NOTHING)
