"""The answers of two handlers to the same tasks, until they are read."""

from __future__ import annotations

import contextlib
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ...reports import TaskPair
from ...task import BaseTask
from ..memory.ledger import Ledger
from ..wire.codec import Codec, Encoded
from ..wire.failures import decode_error, unreadable
from ..wire.frames import Envelope, Status
from ..wire.patch import join

T = TypeVar("T")

MAX_BYTES = 64 << 20
"""Bytes of shared memory that the answers of one shadow may hold until they are read."""

MAX_HALVES = 1024
"""Tasks of which one answer is there and the other one is not."""


@dataclass(slots=True, eq=False)
class Half:
    """The answer of one side.

    Attributes:
        envelope: The answer; its blocks are held.
        seconds: What the call of the handler took.
    """

    envelope: Envelope
    seconds: float


@dataclass(slots=True, eq=False)
class Pair:
    """The answers to one task.

    Attributes:
        kind: The class of the task, as in `Encoded`.
        before: The task as both got it, if they answer with patches; its blocks are held.
        baseline: The answer that the caller gets.
        candidate: That of the shadow.
    """

    kind: bytes
    before: Encoded | None = None
    baseline: Half | None = None
    candidate: Half | None = None


class Pairs:
    """Holds pairs of answers, the newest ones. They are decoded when they are read.

    Args:
        ledger: The holds on blocks.
        codec: Decodes answers.
        where: Flow and step, for errors.
        flow: Name of the flow.
        keep: How many pairs are held at most.

    Attributes:
        dropped: Pairs that were dropped because there were too many.
    """

    def __init__(self, ledger: Ledger, codec: Codec, where: str, flow: str, keep: int) -> None:
        self.dropped = 0
        self._ledger = ledger
        self._codec = codec
        self._where = where
        self._flow = flow
        self._keep = keep
        self._open: dict[int, Pair] = {}
        self._complete: deque[Pair] = deque()
        self._size = 0
        self._readers: deque[Future[None]] = deque()
        self._has_ended = False

    def __contains__(self, id: int) -> bool:
        """Tell whether a task waits for an answer."""
        return id in self._open

    def begin(self, id: int, content: Encoded, sends_patches: bool) -> None:
        """Await both answers to a task.

        Args:
            id: Its number.
            content: The task as both get it.
            sends_patches: Whether the answers are patches to that.
        """
        if self._keep and not self._has_ended:
            self._open[id] = Pair(content.kind, content if sends_patches else None)
            if sends_patches:
                self._ledger.hold(content.blocks)
            if len(self._open) > MAX_HALVES:
                self._drop_oldest_half()

    def discard(self, id: int) -> None:
        """Await no answers to a task any more."""
        pair = self._open.pop(id, None)
        if pair is not None:
            self._release(pair)

    def note(self, envelope: Envelope, seconds: float, is_candidate: bool) -> None:
        """Add an answer, if it is awaited.

        Args:
            envelope: The answer. Its blocks are known, and get a hold more.
            seconds: What the call of the handler took.
            is_candidate: Whether it is that of the shadow.
        """
        pair = self._open.get(envelope.id)
        if pair is None:
            return
        if envelope.status == Status.PATCH and pair.before is not None:
            envelope = envelope._replace(status=Status.OK, content=join(pair.before, [envelope.content]))
        half = Half(envelope, seconds)
        self._ledger.hold(envelope.content.blocks)
        self._size += _size(half)
        if is_candidate:
            pair.candidate = half
        else:
            pair.baseline = half
        if pair.baseline is not None and pair.candidate is not None:
            del self._open[envelope.id]
            self._forget_before(pair)
            self._complete.append(pair)
            self._wake()
        self._limit()

    async def pop(self, loop: AbstractEventLoop) -> TaskPair | None:
        """Remove and return the oldest pair, when there is one; None at the end.

        Args:
            loop: The running event loop.
        """
        return await self.pop_with(loop, self._decoded)

    async def pop_with(self, loop: AbstractEventLoop, read: Callable[[Pair], T]) -> T | None:
        """Remove the oldest pair, when there is one, and return what a function makes of it; None at the end.

        Args:
            loop: The running event loop.
            read: Reads the pair, whose blocks are held until it returns.
        """
        while not self._complete:
            if self._has_ended:
                return None
            reader = loop.create_future()
            self._readers.append(reader)
            try:
                await reader
            finally:
                with contextlib.suppress(ValueError):
                    self._readers.remove(reader)
        pair = self._complete.popleft()
        try:
            return read(pair)
        finally:
            self._release(pair)
            if self._complete:
                self._wake()

    def clear(self) -> None:
        """Drop all answers."""
        while self._complete:
            self.dropped += 1
            self._release(self._complete.popleft())
        for id in list(self._open):
            self.discard(id)

    def end(self) -> None:
        """Drop all answers, and end the waits for one."""
        self._has_ended = True
        self.clear()
        while self._readers:
            self._wake()

    def _decoded(self, pair: Pair) -> TaskPair:
        assert pair.baseline is not None and pair.candidate is not None
        baseline, candidate = (self._decode(pair.kind, half) for half in (pair.baseline, pair.candidate))
        return TaskPair(baseline, candidate, pair.baseline.seconds, pair.candidate.seconds)

    def _decode(self, kind: bytes, half: Half) -> BaseTask | Exception:
        _, body, blocks, extras = half.envelope.content
        if half.envelope.status:
            return decode_error(body, self._where)
        return decode_answer(self._codec, self._flow, Encoded(kind, body, blocks, extras))

    def _wake(self) -> None:
        if self._readers:
            reader = self._readers.popleft()
            with contextlib.suppress(RuntimeError):  # its event loop is closed
                if not reader.done():
                    reader.set_result(None)

    def _limit(self) -> None:
        while self._complete and (len(self._complete) > self._keep or self._size > MAX_BYTES):
            self.dropped += 1
            self._release(self._complete.popleft())
        while self._open and self._size > MAX_BYTES:
            self._drop_oldest_half()

    def _drop_oldest_half(self) -> None:
        self.dropped += 1
        self.discard(next(iter(self._open)))

    def _forget_before(self, pair: Pair) -> None:
        before, pair.before = pair.before, None
        if before is not None:
            self._ledger.drop(before.blocks)

    def _release(self, pair: Pair) -> None:
        self._forget_before(pair)
        for half in (pair.baseline, pair.candidate):
            if half is not None:
                self._size -= _size(half)
                self._ledger.drop(half.envelope.content.blocks)


def decode_answer(codec: Codec, flow: str, content: Encoded) -> BaseTask | Exception:
    """Return a task with the fields of an answer, or why it cannot be read.

    Args:
        codec: Decodes it.
        flow: Name of the flow.
        content: The answer, with the class of the task.
    """
    try:
        return codec.decode(content)
    except Exception as exc:
        return unreadable(flow, exc)


def _size(half: Half) -> int:
    content = half.envelope.content
    return len(content.body) + sum(ref.size for ref in content.blocks)
