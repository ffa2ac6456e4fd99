"""The messages between the API process and a worker, as bytes.

A frame is a length, a kind and a payload. The death of its sender may cut a frame off; it is dropped then. This module
uses no sockets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from ...exceptions import AqueductError
from ..marks import LEAST_WEIGHT, MOST_WEIGHT, Marks
from ..memory.layout import Ref
from .codec import Encoded, new_tuple

MAX_FRAME = 1 << 30
"""Bytes of the longest frame. Large payloads travel in shared memory, so a longer frame is a defect."""

READ_SIZE = 256 * 1024
"""Bytes of the buffer that each end reads into. It is allocated once: malloc gets memory of this size from the OS and
returns it, so a buffer for each read would cost more than the read."""

FRAME_BUDGET = 0.0001
"""Seconds of work that travel in one frame, to a worker and back. A larger budget costs less per task, but then the API
process is idle while the worker is busy, and vice versa: in 0.2 ms a fast worker does the work of 32 callers."""

_FRAME = struct.Struct("<IB")
_BATCH = struct.Struct("<IIIf")
_ENVELOPE = struct.Struct("<QdqBHII")
_BLOCK = struct.Struct("<QQ")
_EXTRAS = struct.Struct("<I")
_SHARED = 1 << 63
_HAS_EXTRAS = 0x80  # flags in the byte of the status
_HAS_MARKS = 0x40


class Kind(IntEnum):
    """The kind of a frame."""

    # to a worker
    SETUP = 1  # its settings, pickled
    TASKS = 2  # batches to work on
    RELEASE = 3  # blocks of its region that are free again
    TRIM = 4  # return free shared memory to the OS
    RECLAIM = 13  # the flow is idle: return free heap memory to the OS, too
    CANCEL = 14  # tasks whose callers do not wait for them any more
    GRANT = 15  # a stream of which more may be sent, and the weight that is added to its window
    LEVELS = 16  # the levels of loggers, which have changed, pickled
    CHECK = 27  # report how the model is
    STOP = 5  # answer the batches that have arrived, run on_stop, exit
    # from a worker
    READY = 6  # on_start has returned
    FAILED = 7  # it could not start: the packed exception
    ANSWERS = 8  # answered batches, or parts of them
    RETAINED = 9  # blocks of answered tasks that user code still refers to
    RELEASED = 10  # retained blocks that user code does not refer to any more
    TRIMMED = 11  # TRIM is done
    ITEMS = 17  # items of streams; each envelope has the id of its task, and the item as its content
    FULL = 12  # it waits for shared memory
    CHECKED = 28  # what is wrong with the model, as text; empty if nothing is
    LOG = 18  # a log record of user code
    CEILING = 29  # how many tasks of one call fit into its memory; see `CeilingReport`
    DROPPED = 19  # how many log records it has dropped since the last such frame
    # between a pipeline process and an API process, beside some of those above
    STATUS = 20  # statistics, pickled
    CALL = 21  # a request, pickled
    RESULT = 22  # its answer, pickled
    LEAVE = 23  # the API process sends no more tasks
    STOPPING = 24  # the pipeline process takes no more tasks
    REPLACED = 25  # what the workers of a step run from now on, pickled
    WAKE = 26  # a step that sleeps has been asked for
    RECORD = 29  # a task that has failed, pickled; the API process sends it once, without a payload, to get them


_KINDS = {int(kind): kind for kind in Kind}


class Status(IntEnum):
    """The outcome of a task in a worker. Only `OK` is false, so one test of the value finds the others."""

    OK = 0
    ERROR = 1  # the body is a packed exception
    STREAM = 3  # on the way to a worker: the caller wants its items
    EXPIRED = 2  # not worked on: the deadline had passed, or the task was cancelled
    PATCH = 4  # the body has what the step has changed of the task
    PASSED = 5  # not worked on: the task does not meet the condition of the step, and is as it came


UNTOUCHED = frozenset({Status.EXPIRED, Status.PASSED})
"""The outcomes of tasks that the handler was not called for."""


class ProtocolError(AqueductError):
    """The bytes on a channel are no valid frames, so nothing that follows them can be trusted."""


class Parcel(Protocol):
    """An object with the attributes of an `Envelope`, which can be packed as one without marks."""

    @property
    def id(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    @property
    def step(self) -> int: ...
    @property
    def status(self) -> int: ...
    @property
    def content(self) -> Encoded: ...


class Envelope(NamedTuple):
    """A task on the wire.

    Attributes:
        id: The dispatcher's number for this task.
        deadline: On the clock of ``time.monotonic``.
        step: The next step, or the steps of a group; see `Route.next`.
        status: The outcome; `Status.OK` on the way to a worker.
        content: The encoded task.
        marks: What is to be known of it while it waits for the next step, as `Marks.pack` returns it; empty on the way
            to a worker.
    """

    id: int
    deadline: float
    step: int
    status: int
    content: Encoded
    marks: bytes = b""


class Batch(NamedTuple):
    """Tasks that travel together. They may be answered in parts.

    Attributes:
        envelopes: The tasks.
        duration: Seconds that the worker needed; 0 on the way to a worker.
        size: How many of them the handler gets in one call; 0 for all.
        number: The sender's number for them, which the answers repeat.
    """

    envelopes: list[Envelope]
    duration: float = 0.0
    size: int = 0
    number: int = 0


def pack(kind: Kind, payload: bytes = b"") -> bytes:
    """Return a frame.

    Raises:
        ProtocolError: The payload is longer than `MAX_FRAME`.
    """
    if len(payload) > MAX_FRAME:
        raise ProtocolError(f"a frame of {len(payload)} bytes is over the limit of {MAX_FRAME}")
    return _FRAME.pack(len(payload), kind) + payload


def pack_batches(batches: Iterable[tuple[Sequence[Parcel], float, int, int]]) -> bytes:
    """Return the payload of a TASKS or ANSWERS frame; each batch has the items of a `Batch`."""
    parts: list[bytes] = []
    add, envelope = parts.append, _ENVELOPE.pack
    for parcels, duration, batch_size, number in batches:
        add(_BATCH.pack(number, len(parcels), batch_size, duration))
        for parcel in parcels:
            if type(parcel) is Envelope:  # quicker than one attribute after the other
                id, deadline, step, status, content, marks = parcel
            else:
                id, deadline, step = parcel.id, parcel.deadline, parcel.step
                status, content, marks = parcel.status, parcel.content, b""
            kind, body, blocks, extras = content
            if extras:
                status |= _HAS_EXTRAS
                body = _EXTRAS.pack(len(extras)) + extras + body
            if marks:
                status |= _HAS_MARKS
                body = _EXTRAS.pack(len(marks)) + marks + body
            add(envelope(id, deadline, step, status, len(kind), len(blocks), len(body)))
            add(kind)
            for offset, size, shared in blocks:
                add(_BLOCK.pack(offset, size | _SHARED if shared else size))
            add(body)
    return b"".join(parts)


def unpack_batches(payload: bytes) -> list[Batch]:
    """Read the payload of a TASKS or ANSWERS frame.

    Raises:
        ProtocolError: The payload is cut off or malformed.
    """
    batches: list[Batch] = []
    position, end = 0, len(payload)
    unpack_envelope, envelope_size, has_more = _ENVELOPE.unpack_from, _ENVELOPE.size, _HAS_MARKS
    try:
        while position < end:
            number, count, batch_size, duration = _BATCH.unpack_from(payload, position)
            position += _BATCH.size
            envelopes: list[Envelope] = []
            for _ in range(count):
                id, deadline, step, status, kind_size, block_count, body_size = unpack_envelope(payload, position)
                position += envelope_size
                kind = b""
                if kind_size:
                    kind = payload[position : position + kind_size]
                    position += kind_size
                blocks: tuple[Ref, ...] = ()
                if block_count:
                    table = payload[position : position + block_count * _BLOCK.size]
                    position += block_count * _BLOCK.size
                    words = _BLOCK.iter_unpack(table)
                    blocks = tuple([new_tuple(Ref, (at, word & ~_SHARED, word >= _SHARED)) for at, word in words])
                body = payload[position : position + body_size]
                position += body_size
                marks = extras = b""
                if status >= has_more:
                    if status & _HAS_MARKS:
                        marks, body = _split(body)
                    if status & _HAS_EXTRAS:
                        extras, body = _split(body)
                    status &= ~(_HAS_MARKS | _HAS_EXTRAS)
                content = new_tuple(Encoded, (kind, body, blocks, extras))
                envelopes.append(new_tuple(Envelope, (id, deadline, step, status, content, marks)))
            batches.append(new_tuple(Batch, (envelopes, duration, batch_size, number)))
    except struct.error as exc:
        raise ProtocolError(f"malformed batches: {exc}") from exc
    if position != end:
        raise ProtocolError(f"batches are cut off: {position - end} bytes are missing")
    return batches


def _split(body: bytes) -> tuple[bytes, bytes]:
    """Return what stands before the fields of a task, and the rest."""
    start = _EXTRAS.size + _EXTRAS.unpack_from(body)[0]
    return body[_EXTRAS.size : start], body[start:]


def unpack_marks(data: bytes) -> Marks:
    """Read the marks of an envelope.

    Raises:
        ProtocolError: They are malformed.
    """
    try:
        marks = Marks.unpack(data)
    except struct.error as exc:
        raise ProtocolError(f"malformed marks of a task: {exc}") from exc
    if not LEAST_WEIGHT <= marks.weight <= MOST_WEIGHT:
        raise ProtocolError(f"no tenant has the weight {marks.weight}")
    return marks


def pack_offsets(offsets: Iterable[int]) -> bytes:
    """Return the payload of a frame that lists blocks or tasks."""
    return b"".join([offset.to_bytes(8, "little") for offset in offsets])


def unpack_offsets(payload: bytes) -> Iterator[int]:
    """Read the payload of a frame that lists blocks or tasks.

    Raises:
        ProtocolError: The payload is cut off.
    """
    if len(payload) % 8:
        raise ProtocolError(f"a list of numbers cannot be {len(payload)} bytes long")
    return (int.from_bytes(payload[i : i + 8], "little") for i in range(0, len(payload), 8))


def unpack_pairs(payload: bytes) -> Iterator[tuple[int, int]]:
    """Read the payload of a frame that lists blocks or tasks, each with a number.

    Raises:
        ProtocolError: The payload is cut off.
    """
    if len(payload) % 16:
        raise ProtocolError(f"a list of pairs of numbers cannot be {len(payload)} bytes long")
    numbers = unpack_offsets(payload)
    return zip(numbers, numbers, strict=True)


class FrameReader:
    """Splits a stream of bytes, which arrives in pieces of any size, into frames."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of an incomplete frame
        self._missing = 0  # bytes until its header, or the whole frame, is complete

    def feed(self, data: bytes | memoryview) -> list[tuple[Kind, bytes]]:
        """Add a piece of the stream and return the frames that are complete; ``data`` may be reused afterwards.

        Raises:
            ProtocolError: A frame is too long or of no known kind.
        """
        if self._pieces:
            # The pieces are joined once, when the frame is complete: with a join for each piece, the number of copied
            # bytes would grow with the square of the length.
            if len(data) < self._missing:
                self._pieces.append(bytes(data))
                self._missing -= len(data)
                return []
            data = b"".join([*self._pieces, data])
            self._pieces.clear()
        frames: list[tuple[Kind, bytes]] = []
        position, end, wanted = 0, len(data), _FRAME.size
        while end - position >= _FRAME.size:
            size, kind = _FRAME.unpack_from(data, position)
            if size > MAX_FRAME:
                raise ProtocolError(f"a frame of {size} bytes is over the limit of {MAX_FRAME}")
            start = position + _FRAME.size
            if end - start < size:
                wanted += size
                break
            try:
                frames.append((_KINDS[kind], bytes(data[start : start + size])))
            except KeyError as exc:
                raise ProtocolError(f"no frame is of kind {kind}") from exc
            position = start + size
        if position < end:
            self._pieces.append(bytes(data[position:]))
            self._missing = wanted - (end - position)
        return frames

    @property
    def is_inside_frame(self) -> bool:
        """Whether the last piece ended in the middle of a frame."""
        return bool(self._pieces)
