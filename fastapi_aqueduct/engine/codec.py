"""Turns tasks into bytes and references to shared memory, and back.

The fields of a task are pickled (protocol 5, PEP 574). Buffers of `THRESHOLD` bytes and more leave the stream: one
that already lies in the arena becomes a reference to its block, any other is copied into a block of its own. Arrays and
`bytes` that are fields themselves leave it as a whole, which is how most of them travel, and takes less. A stream that
is itself that long goes to a block too, so what a socket carries stays small.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any, NamedTuple

from ..exceptions import TaskNotPicklable
from ..task import BaseTask, SharedBytes
from .arena import THRESHOLD, Arena, Ref, is_shared
from .arrays import array_at, array_type, reducers, typecode

# Is the stream itself in a block (the last buffer)?, number of fields that have left it, number of buffers. The buffers
# of these fields come first, then those of the stream.
_HEAD = struct.Struct("<?II")
_BUFFER = struct.Struct("<IQQ")  # index of the block, position in it, length

# A body is either this head with its table and stream, or a stream alone, which begins with the opcode PROTO: most
# tasks are made of plain values, and those need neither a head nor a look for buffers.
_PICKLE = 0x80
_PLAIN = frozenset({int, float, str, bool, type(None)})
_BYTES: dict[str, type[bytes] | type[bytearray]] = {bytes.__name__: bytes, bytearray.__name__: bytearray}
_FLAT = _PLAIN.union(_BYTES.values())
"""Types whose values refer to nothing else."""

_PRIVATE = frozenset({"_deferred", "_failure", "_metrics", "_share"})

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
        if _PLAIN.issuperset(map(type, fields.values())):
            body = pickle.dumps(fields, 5)
            if len(body) < THRESHOLD:
                return body, ()
        try:
            return self._writer.write(task)
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
        task.__dict__, deferred = self._read(encoded)
        for name, value in deferred:
            task._defer(name, value)

    def _read(self, encoded: Encoded) -> tuple[dict[str, Any], list[tuple[str, SharedBytes]]]:
        body = encoded.body
        stream_in_block, moved_count, count = _HEAD.unpack_from(body)
        table_end = _HEAD.size + count * _BUFFER.size
        table = list(_BUFFER.iter_unpack(body[_HEAD.size : table_end]))
        leases = [self._arena.lend(ref) for ref in encoded.blocks]
        view = self._arena.mapping.view
        stream = memoryview(body)[table_end:]
        if stream_in_block:
            index, position, length = table.pop()
            stream = view(leases[index], position, length)
        buffers = [view(leases[index], position, length) for index, position, length in table[moved_count:]]
        fields, moved = pickle.loads(stream, buffers=buffers)
        deferred: list[tuple[str, SharedBytes]] = []
        for (name, kind, shape), (index, position, length) in zip(moved, table, strict=False):
            if kind in _BYTES:
                deferred.append((name, SharedBytes(view(leases[index], position, length), _BYTES[kind])))
            else:
                fields[name] = array_at(leases[index], position, kind, shape)
        return fields, deferred


class _Writer:
    """Writes one task after the other. Knows what it has allocated, so that a failure leaves nothing behind."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._blocks: list[Ref] = []
        self._indices: dict[int, int] = {}
        self._buffers: list[tuple[int, int, int]] = []
        self._arrays: dict[int, tuple[int, int, int]] = {}
        self._allocated: list[int] = []
        self._stream = _Stream()
        self._pickler = self._make_pickler()  # one for all tasks: to make it takes as long as to use it

    def write(self, task: BaseTask) -> tuple[bytes, tuple[Ref, ...]]:
        try:
            fields, moved = self._move(task)
            return self._finish(self._pickle(fields, moved), len(moved))
        except BaseException:
            for offset in self._allocated:
                self._arena.free(offset)
            raise
        finally:
            # Nothing of a task may stay.
            for kept in (self._blocks, self._indices, self._buffers, self._arrays, self._allocated):
                kept.clear()

    def _move(self, task: BaseTask) -> tuple[dict[str, Any], list[tuple[str, str, Any]]]:
        """Put the large fields of a task into blocks, if they are not in one.

        Returns:
            The other fields; and of each that has gone its name, what it is, and the shape of an array.
        """
        if "_share" in task.__dict__:
            _share(task, self._arena)
        fields = task.__dict__.copy()
        fields.pop("_metrics", None)
        moved: list[tuple[str, str, Any]] = []
        for name, value in fields.pop("_deferred", {}).items():
            if name not in fields or value.is_copy(fields[name]):
                fields.pop(name, None)
                self._add(value.view, 0)
                moved.append((name, value.kind.__name__, None))
        array = array_type()
        # Among other objects one may hold the same array: they are pickled together, so that it stays the same.
        are_flat = _FLAT.issuperset({*map(type, fields.values())} - {array})
        for name, value in list(fields.items()):
            kind = type(value)
            if kind in _PLAIN:
                continue
            if kind is array and are_flat and (code := typecode(value)) and self._add_array(value):
                moved.append((name, code, value.shape))
                del fields[name]
            elif kind in _FLAT and len(value) >= THRESHOLD:
                self._copy(memoryview(value))
                moved.append((name, kind.__name__, None))
                del fields[name]
        return fields, moved

    def _pickle(self, fields: dict[str, Any], moved: list[tuple[str, str, Any]]) -> bytes:
        if _FLAT.issuperset(map(type, fields.values())):
            return pickle.dumps((fields, moved), 5)
        try:
            self._pickler.dump((fields, moved))
            return b"".join(self._stream.parts)
        except BaseException:
            self._pickler = self._make_pickler()  # the old one may stand in the middle of something
            raise
        finally:
            self._pickler.clear_memo()  # which would keep views on blocks
            self._stream.parts.clear()

    def _make_pickler(self) -> pickle.Pickler:
        pickler = pickle.Pickler(self._stream, 5, buffer_callback=self._take)
        pickler.dispatch_table = reducers
        return pickler

    def _finish(self, pickled: bytes, moved_count: int) -> tuple[bytes, tuple[Ref, ...]]:
        in_block = len(pickled) >= THRESHOLD
        if in_block:
            self._copy(memoryview(pickled))
            pickled = b""
        head = _HEAD.pack(in_block, moved_count, len(self._buffers))
        table = [_BUFFER.pack(*buffer) for buffer in self._buffers]
        return b"".join([head, *table, pickled]), tuple(self._blocks)

    def _take(self, buffer: pickle.PickleBuffer) -> bool:
        # True keeps the buffer in the stream.
        with buffer.raw() as view:
            return not self._add(view)

    def _add_array(self, value: Any) -> bool:
        """Move an array if it should move; one that is in two fields once."""
        if id(value) in self._arrays:
            self._buffers.append(self._arrays[id(value)])
        elif self._add(value):
            self._arrays[id(value)] = self._buffers[-1]
        else:
            return False
        return True

    def _add(self, buffer: Any, least: int = THRESHOLD) -> bool:
        """Move a buffer of so many bytes, or of any number if it is in a block already or shared."""
        found = self._arena.find(buffer)
        if found is not None:
            self._refer(*found, buffer.nbytes)
            return True
        # Shared in the arena of another flow: here too it may be written in place.
        shared = is_shared(buffer)
        if buffer.nbytes < least and not shared:
            return False
        self._copy(buffer if isinstance(buffer, memoryview) else pickle.PickleBuffer(buffer).raw(), shared)
        return True

    def _copy(self, view: memoryview, shared: bool = False) -> None:
        ref = self._arena.allocate(len(view))._replace(shared=shared)
        self._allocated.append(ref.offset)
        self._arena.write(ref)[:] = view
        self._refer(ref, 0, len(view))

    def _refer(self, ref: Ref, position: int, length: int) -> None:
        index = self._indices.setdefault(ref.offset, len(self._blocks))
        if index == len(self._blocks):
            self._blocks.append(ref)
        self._buffers.append((index, position, length))


class _Stream:
    """What a pickler writes, in the pieces in which it comes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append


def _share(task: BaseTask, arena: Arena) -> None:
    fields = task.__dict__
    for name in fields.pop("_share"):
        if name in fields:
            task._put_shared(name, arena.share(fields[name]))


def _pickle_class(cls: type[BaseTask]) -> bytes:
    try:
        return pickle.dumps(cls, 5)
    except Exception as exc:
        raise TaskNotPicklable(
            f"task class {cls.__qualname__} cannot travel to another process: {exc}; define it at the top of a module"
        ) from exc


def _blame(task: BaseTask, exc: BaseException) -> str:
    name = type(task).__name__
    for field, value in task.__dict__.items():
        if field in _PRIVATE:
            continue
        try:
            pickler = pickle.Pickler(io.BytesIO(), 5, buffer_callback=lambda _: False)
            pickler.dispatch_table = reducers
            pickler.dump(value)
        except Exception as error:
            return f"{name}.{field} of type {type(value).__qualname__} cannot travel to another process: {error}"
    return f"{name} cannot travel to another process: {exc}"
