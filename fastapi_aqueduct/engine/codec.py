"""Turns tasks into bytes and references to shared memory, and back.

The fields of a task are pickled (protocol 5, PEP 574). Buffers of `THRESHOLD` bytes and more leave the stream: one
that already lies in the arena becomes a reference to its block, any other is copied into a block of its own. A
stream that is itself that long goes to a block too, so what a socket carries stays small.
"""

from __future__ import annotations

import array
import io
import pickle
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from ..exceptions import HandlerError, TaskNotPicklable, WorkerTraceback
from ..task import BaseTask, SharedBytes
from .arena import Arena, Ref, is_shared, lease_of

THRESHOLD = 16 * 1024
"""Bytes from which a buffer moves to shared memory; below, a copy through the socket is cheaper than a block."""

_HEAD = struct.Struct("<?I")  # is the stream itself in a block (the last buffer)?, number of buffers
_BUFFER = struct.Struct("<IQQ")  # index of the block, position in it, length

# A body is either this head with its table and stream, or a stream alone, which begins with the opcode PROTO: most
# tasks are made of plain values, and those need neither a head nor a look for buffers.
_PICKLE = 0x80
_PLAIN = frozenset({int, float, str, bool, type(None)})


new_tuple = tuple.__new__
"""Makes a named tuple in half the time its class needs; for the few that are made for every task."""


class Encoded(NamedTuple):
    """A task on its way.

    Attributes:
        kind: The task's class, pickled by reference.
        body: Its fields; only a codec looks inside.
        blocks: The blocks that the body refers to.
    """

    kind: bytes
    body: bytes
    blocks: tuple[Ref, ...]


class Codec:
    """Encodes and decodes the tasks of one flow in one process.

    Args:
        arena: Where large buffers go and come from.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._writer = _Writer(arena)
        self._kinds: dict[type[BaseTask], bytes] = {}
        self._classes: dict[bytes, type[BaseTask]] = {}

    def encode(self, task: BaseTask) -> Encoded:
        """Take a task apart.

        Blocks that are made for it are held by nobody yet; those it refers to are held by the leases behind its
        fields.

        Raises:
            TaskNotPicklable: Some field cannot be pickled.
            ArenaFull: There is no room for a large field.
        """
        cls = type(task)
        kind = self._kinds.get(cls)
        if kind is None:
            kind = self._kinds[cls] = _pickle_class(cls)
        body, blocks = self.encode_fields(task)
        return new_tuple(Encoded, (kind, body, blocks))

    def encode_fields(self, task: BaseTask) -> tuple[bytes, tuple[Ref, ...]]:
        """Take a task apart whose class the receiver knows: the body and the blocks of `encode`."""
        fields = task.__dict__
        for value in fields.values():
            if type(value) not in _PLAIN:
                break
        else:
            body = pickle.dumps(fields, 5)
            if len(body) < THRESHOLD:
                return body, ()
        try:
            return self._writer.write(_fields_to_send(task, self._arena))
        except BaseException as exc:
            if isinstance(exc, pickle.PicklingError | TypeError | AttributeError | RecursionError | ValueError):
                raise TaskNotPicklable(_blame(task, exc)) from exc
            raise

    def decode(self, encoded: Encoded) -> BaseTask:
        """Put a task together; its large fields are views, each block is held by a lease behind them."""
        cls = self._classes.get(encoded.kind)
        if cls is None:
            cls = self._classes[encoded.kind] = pickle.loads(encoded.kind)
        task: BaseTask = object.__new__(cls)
        self.decode_into(task, encoded)
        return task

    def decode_into(self, task: BaseTask, encoded: Encoded) -> None:
        """Replace the fields of a task by those that have come.

        Raises:
            Exception: Whatever rebuilding a user's object raises; the task is unchanged then.
        """
        body = encoded.body
        if body[0] == _PICKLE:
            task.__dict__ = pickle.loads(body)
            return
        task.__dict__, moved = self._read(encoded)
        for name, kind, buffer in moved:
            task._defer(name, SharedBytes(memoryview(buffer), kind))

    def _read(self, encoded: Encoded) -> tuple[dict[str, Any], list[tuple[str, Any, Any]]]:
        body = encoded.body
        stream_in_block, count = _HEAD.unpack_from(body)
        table_end = _HEAD.size + count * _BUFFER.size
        leases = [self._arena.lend(ref) for ref in encoded.blocks]
        buffers = [
            self._arena.mapping.view(leases[index], position, length)
            for index, position, length in _BUFFER.iter_unpack(body[_HEAD.size : table_end])
        ]
        stream = buffers.pop() if stream_in_block else memoryview(body)[table_end:]
        return pickle.loads(stream, buffers=buffers)  # type: ignore[no-any-return]


class _Writer:
    """Writes one task after the other. Knows what it has allocated, so that a failure leaves nothing behind."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._blocks: dict[int, Ref] = {}
        self._indices: dict[int, int] = {}
        self._buffers: list[tuple[int, int, int]] = []
        self._allocated: list[int] = []
        self._stream = _Stream()
        self._pickler = self._make_pickler()  # one for all tasks: to make it takes as long as to use it

    def write(self, value: object) -> tuple[bytes, tuple[Ref, ...]]:
        _notice_numpy()
        try:
            self._pickler.dump(value)
            return self._finish(b"".join(self._stream.parts))
        except BaseException:
            self._pickler = self._make_pickler()  # the old one may stand in the middle of something
            for offset in self._allocated:
                self._arena.free(offset)
            raise
        finally:
            # Nothing of a task may stay: what the pickler remembers would keep views on blocks.
            self._pickler.clear_memo()
            for kept in (self._stream.parts, self._blocks, self._indices, self._buffers, self._allocated):
                kept.clear()

    def _make_pickler(self) -> pickle.Pickler:
        pickler = pickle.Pickler(self._stream, 5, buffer_callback=self._take)
        pickler.dispatch_table = _reducers
        return pickler

    def _finish(self, pickled: bytes) -> tuple[bytes, tuple[Ref, ...]]:
        in_block = len(pickled) >= THRESHOLD
        if in_block:
            self._copy(memoryview(pickled))
            pickled = b""
        head = _HEAD.pack(in_block, len(self._buffers))
        table = [_BUFFER.pack(*buffer) for buffer in self._buffers]
        return b"".join([head, *table, pickled]), tuple(self._blocks.values())

    def _take(self, buffer: pickle.PickleBuffer) -> bool:
        # True keeps the buffer in the stream.
        with buffer.raw() as view:
            found = self._arena.find(view)
            if found is not None:
                self._refer(*found, len(view))
                return False
            # Shared in the arena of another flow: here too it may be written in place.
            shared = is_shared(view)
            if len(view) < THRESHOLD and not shared:
                return True
            self._copy(view, shared)
            return False

    def _copy(self, view: memoryview, shared: bool = False) -> None:
        ref = self._arena.allocate(len(view))._replace(shared=shared)
        self._allocated.append(ref.offset)
        self._arena.write(ref)[:] = view
        self._refer(ref, 0, len(view))

    def _refer(self, ref: Ref, position: int, length: int) -> None:
        if ref.offset not in self._blocks:
            self._indices[ref.offset] = len(self._blocks)
            self._blocks[ref.offset] = ref
        self._buffers.append((self._indices[ref.offset], position, length))


class _Stream:
    """What a pickler writes, in the pieces in which it comes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append


def _fields_to_send(task: BaseTask, arena: Arena) -> tuple[dict[str, Any], list[tuple[str, Any, Any]]]:
    """Split a task's fields into those pickled as they are and large `bytes` that leave the stream."""
    fields = task.__dict__
    moved: list[tuple[str, Any, Any]] = []
    if "_share" in fields:
        for name in fields.pop("_share"):
            if name in fields:
                task._put_shared(name, arena.share(fields[name]))
    if "_deferred" in fields:
        fields = fields.copy()
        for name, value in fields.pop("_deferred").items():
            if name not in fields or value.is_copy(fields[name]):
                fields.pop(name, None)
                moved.append((name, value.kind, pickle.PickleBuffer(value.view)))
    large = [name for name, value in fields.items() if type(value) in _BYTES and len(value) >= THRESHOLD]
    if large or "_metrics" in fields:
        fields = fields.copy()
        fields.pop("_metrics", None)
        moved += [(name, type(fields[name]), pickle.PickleBuffer(fields.pop(name))) for name in large]
    return fields, moved


_BYTES = (bytes, bytearray)
_PRIVATE = frozenset({"_deferred", "_failure", "_metrics", "_share"})


def _pickle_class(cls: type[BaseTask]) -> bytes:
    try:
        return pickle.dumps(cls, 5)
    except Exception as exc:
        raise TaskNotPicklable(
            f"task class {cls.__qualname__} cannot travel to another process: {exc}; define it at the top of a module"
        ) from exc


def _notice_numpy() -> None:
    # numpy is not imported for those who do not use it: where nobody has imported it, there is no array.
    numpy = sys.modules.get("numpy")
    if numpy is not None and numpy.ndarray not in _reducers:
        _reducers[numpy.ndarray] = _reduce_ndarray


def _reduce_ndarray(value: Any) -> Any:
    flags, dtype = value.flags, value.dtype
    if flags.c_contiguous and dtype.kind in "biufc" and dtype.metadata is None:
        # What numpy does for itself takes three times as long, and a type's letter is there, but `str` is made anew.
        return type(value), (value.shape, dtype.char if dtype.isnative else dtype.str, pickle.PickleBuffer(value))
    if flags.forc or value.dtype.hasobject or value.dtype.names or value.dtype.kind in "mMV":
        return value.__reduce_ex__(5)
    span = _span_in_arena(value)
    if span is None:
        if value.nbytes < THRESHOLD:
            return value.__reduce_ex__(5)
        value = value.copy(order="K")  # keeps the order of the axes, drops the gaps
        if value.flags.forc:
            return value.__reduce_ex__(5)
        span = memoryview(value.ravel(order="K")), 0
    buffer, start = span
    return _rebuild_ndarray, (pickle.PickleBuffer(buffer), value.dtype.str, value.shape, value.strides, start)


def _span_in_arena(value: Any) -> tuple[memoryview, int] | None:
    """Return the bytes of a block that a strided array touches, and where in them its first element lies."""
    lease = lease_of(value)
    if lease is None or not value.size:
        return None
    first = value.__array_interface__["data"][0]
    reaches = [(size - 1) * stride for size, stride in zip(value.shape, value.strides, strict=True)]
    low = first + sum(reach for reach in reaches if reach < 0)
    high = first + sum(reach for reach in reaches if reach > 0)
    start = lease.mapping.position(lease, low)
    length = high + value.itemsize - low
    return lease.mapping.view(lease, start, length), first - low


def _rebuild_ndarray(buffer: Any, dtype: str, shape: Any, strides: Any, start: int) -> Any:
    import numpy as np

    return np.ndarray(shape, dtype, buffer, start, strides)


def _reduce_memoryview(value: memoryview) -> Any:
    if not value.c_contiguous:
        value = memoryview(value.tobytes()).cast("B").cast(value.format, value.shape)  # type: ignore[call-overload]
    return _rebuild_memoryview, (pickle.PickleBuffer(value), value.format, value.shape)


def _rebuild_memoryview(buffer: Any, format: str, shape: Any) -> memoryview:
    view = memoryview(buffer)
    if view.format == format and view.shape == shape:
        return view
    return view.cast("B").cast(format, shape)  # type: ignore[call-overload,no-any-return]


def _reduce_array(value: array.array[Any]) -> Any:
    return _rebuild_array, (value.typecode, pickle.PickleBuffer(value))


def _rebuild_array(typecode: str, buffer: Any) -> array.array[Any]:
    value = array.array(typecode)
    value.frombytes(buffer)
    return value


_reducers: dict[type, Callable[[Any], Any]] = {memoryview: _reduce_memoryview, array.array: _reduce_array}


def _blame(task: BaseTask, exc: BaseException) -> str:
    name = type(task).__name__
    for field, value in task.__dict__.items():
        if field in _PRIVATE:
            continue
        try:
            pickler = pickle.Pickler(io.BytesIO(), 5, buffer_callback=lambda _: False)
            pickler.dispatch_table = _reducers
            pickler.dump(value)
        except Exception as error:
            return f"{name}.{field} of type {type(value).__qualname__} cannot travel to another process: {error}"
    return f"{name} cannot travel to another process: {exc}"


def encode_error(exc: BaseException) -> bytes:
    """Pack an exception with its traceback.

    The exception itself is packed only if it survives being rebuilt; anything else becomes a `HandlerError` with its
    type, message and traceback, because one exception that cannot be rebuilt must not break its receiver
    (python/cpython#80041). Exceptions that would end the receiver, such as SystemExit, are treated the same.
    """
    text = "".join(traceback.format_exception(exc))
    name = f"{type(exc).__module__}.{type(exc).__qualname__}"
    original = b""
    if isinstance(exc, Exception) and not isinstance(exc, StopIteration | StopAsyncIteration):
        try:
            original = pickle.dumps(exc, 5)
            if type(pickle.loads(original)) is not type(exc):
                original = b""
        except Exception:
            original = b""
    return pickle.dumps((original, name, _safe_str(exc), text), 5)


def decode_error(body: bytes, where: str) -> Exception:
    """Unpack what `encode_error` packed; the worker's traceback is its ``__cause__``.

    Args:
        body: The packed exception.
        where: Flow, step and worker, for the message of a `HandlerError`.
    """
    original, name, message, text = pickle.loads(body)
    exc: Exception | None = None
    if original:
        try:
            rebuilt = pickle.loads(original)
            exc = rebuilt if isinstance(rebuilt, Exception) else None
        except Exception:  # a class that exists only in the worker, or a constructor with other arguments
            exc = None
    if exc is None:
        exc = HandlerError(f"{name} in {where}: {message}", type_name=name, original=message)
    exc.__cause__ = WorkerTraceback(text)
    return exc


def _safe_str(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:
        return "<its message could not be made>"

