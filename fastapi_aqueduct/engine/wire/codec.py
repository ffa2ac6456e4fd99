"""Encodes tasks as bytes and references to shared memory, and decodes them.

The fields of a task are pickled (protocol 5, PEP 574). Buffers of `THRESHOLD` bytes and more are kept out of the
pickle: a buffer in the arena becomes a reference to its block, any other one is copied into a block of its own. Arrays
and `bytes` that are fields themselves are kept out as whole objects, which is cheaper, and the usual case. A pickle of
that length goes to a block, too, so messages on the socket are small.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ...exceptions import ArenaFull, TaskNotPicklable
from ...runtime import RUNTIME, drop_runtime
from ...task import BaseTask, SharedBytes
from ..memory.arena import THRESHOLD, Arena
from ..memory.layout import Ref
from .arrays import array_at, make_reducers
from .encoder import BUFFER, BYTES, DELETED, HEAD, PLAIN, REFERS_TO_TASK, STATE, STREAM_IN_BLOCK, TaskEncoder
from .joined import JOINED, split_parts
from .task_state import get_state, has_state, has_update, set_state

# A body is either a header with a table and a pickle, or a pickle alone, which begins with the opcode PROTO: most tasks
# have plain values only, which need neither a header nor a search for buffers.
_PICKLE = 0x80

Fields = tuple[dict[str, Any], list[tuple[str, SharedBytes]]]
"""The fields of a task, and those of them that are bytes in shared memory."""

new_tuple = tuple.__new__
"""Makes a named tuple in half the time of a call of its class; for those that are made for every task."""


class Encoded(NamedTuple):
    """An encoded task.

    Attributes:
        kind: The task's class, pickled by reference.
        body: The fields, which only a codec reads.
        blocks: The blocks that the body refers to.
        extras: Bytes beside the fields that travel with the task from step to step, in a form that sender and reader
            agree on. Empty for most tasks.
    """

    kind: bytes
    body: bytes
    blocks: tuple[Ref, ...]
    extras: bytes = b""


class Codec:
    """Encodes and decodes the tasks of one flow in one process.

    Args:
        arena: The shared memory for large buffers.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._encoder = TaskEncoder(arena)
        self._kinds: dict[type[BaseTask], bytes] = {}
        self._classes: dict[bytes, type[BaseTask]] = {}
        self._stateful: set[type[BaseTask]] = set()
        self._special: set[type[BaseTask]] = set()  # those, and classes that override `update`

    def encode(self, task: BaseTask) -> Encoded:
        """Encode a task.

        New blocks have no hold yet; blocks that exist already have a view in the fields of the task.

        Raises:
            TaskNotPicklable: A field cannot be pickled.
            ArenaFull: The shared memory has no space for a large field.
            Exception: The exception of ``task.fail``.
        """
        cls = type(task)
        kind = self._kinds.get(cls)
        if kind is None:
            kind = self._kinds[cls] = _pickle_class(cls)
            self._learn(cls)
        body, blocks = self.encode_fields(task)
        return new_tuple(Encoded, (kind, body, blocks, b""))

    def encode_fields(self, task: BaseTask) -> tuple[bytes, tuple[Ref, ...]]:
        """Encode a task whose class the receiver knows; return the body and the blocks, as `encode` does."""
        fields = task.__dict__
        if self._special and type(task) in self._special:  # the body of such a task is never a pickle alone
            if type(task) in self._stateful:
                return self._encode_state(task)
        elif PLAIN.issuperset(map(type, fields.values())):
            body = pickle.dumps(fields, 5)
            if len(body) < THRESHOLD:
                return body, ()
        if RUNTIME in fields:
            _check_failure(task)
        try:
            return self._encoder.write(task)
        except (ArenaFull, MemoryError):
            raise
        except Exception as exc:  # a user's object may raise any error
            raise TaskNotPicklable(_blame(task, task.__dict__, exc)) from exc

    def share(self, task: BaseTask) -> None:
        """Share the fields of a task that ``share_value`` has noted."""
        self._encoder.share(task)

    def encode_part(self, task: BaseTask, content: dict[str, Any]) -> tuple[bytes, tuple[Ref, ...]]:
        """Encode some fields of a task, or a part of its state, for a patch; return as `encode_fields` does.

        Args:
            task: The task.
            content: The fields, with those that are in shared memory as runtime state; or a part of the state.
        """
        if PLAIN.issuperset(map(type, content.values())):
            body = pickle.dumps(content, 5)
            if len(body) < THRESHOLD:
                return body, ()
        try:
            return self._encoder.write_part(task, content, can_move=STATE not in content)
        except (ArenaFull, MemoryError):
            raise
        except Exception as exc:
            raise TaskNotPicklable(_blame(task, content.get(STATE, content), exc)) from exc

    def encode_item(self, item: Any) -> tuple[bytes, tuple[Ref, ...]]:
        """Encode an item of a stream; return the body and the blocks, as `encode` does.

        Raises:
            TaskNotPicklable: The item cannot be pickled.
            ArenaFull: The shared memory has no space for it.
        """
        if type(item) in PLAIN:
            body = pickle.dumps(item, 5)
            if len(body) < THRESHOLD:
                return body, ()
        carrier = object.__new__(_Carrier)
        carrier.item = item
        try:
            return self._encoder.write(carrier)
        except (ArenaFull, MemoryError):
            raise
        except Exception as exc:
            raise TaskNotPicklable(
                f"an item of type {type(item).__qualname__} cannot travel to another process: {exc}"
            ) from exc

    def decode_item(self, encoded: Encoded) -> Any:
        """Decode an item of a stream; a large array is a view on its block."""
        if encoded.body[0] == _PICKLE:
            return pickle.loads(encoded.body)
        carrier = object.__new__(_Carrier)
        self.decode_into(carrier, encoded)
        return carrier.item

    def _learn(self, cls: type[BaseTask]) -> None:
        # Once for each class: most classes have no methods of their own for this.
        if has_state(cls):
            self._stateful.add(cls)
        if has_state(cls) or has_update(cls):
            self._special.add(cls)

    def _encode_state(self, task: BaseTask) -> tuple[bytes, tuple[Ref, ...]]:
        state: Any = None
        _check_failure(task)
        try:
            self._encoder.share(task)
            state = get_state(task)
            return self._encoder.write_state(task, state)
        except (ArenaFull, MemoryError):
            raise
        except Exception as exc:
            raise TaskNotPicklable(_blame(task, state, exc)) from exc

    def decode(self, encoded: Encoded) -> BaseTask:
        """Decode a task. Its large fields are views, and each block has a lease until the last view has ended."""
        cls = self._classes.get(encoded.kind)
        if cls is None:
            cls = self._classes[encoded.kind] = pickle.loads(encoded.kind)
            self._learn(cls)
        task: BaseTask = object.__new__(cls)
        self.decode_into(task, encoded)
        return task

    def decode_into(self, task: BaseTask, encoded: Encoded) -> None:
        """Replace the fields of a task by decoded ones.

        Raises:
            Exception: An error of unpickling a user's object, after which the task is unchanged; an error of the task's
                own ``update``.
        """
        body = encoded.body
        if body[0] == _PICKLE:
            task.__dict__ = pickle.loads(body)
            return
        if body[0] == JOINED:
            fields, deferred = self._read_joined(encoded, task)
        else:
            fields, deferred = self._read(body, encoded.blocks, task)
        if self._special and type(task) in self._special:
            _fill_special(task, fields, deferred)
            return
        task.__dict__ = fields
        for name, value in deferred:
            task._defer(name, value)

    def _read_joined(self, encoded: Encoded, task: BaseTask) -> Fields:
        """Read a task with patches."""
        parts = [
            (pickle.loads(body), []) if body[0] == _PICKLE else self._read(body, blocks, task)
            for body, blocks in split_parts(encoded.body, encoded.blocks)
        ]
        (fields, moved), *patches = parts
        deferred = dict(moved)
        for changed, moved in patches:
            if STATE in changed:
                _apply(fields[STATE], changed.pop(STATE))
            for name in _apply(fields, changed):
                deferred.pop(name, None)
            for name, value in moved:
                fields.pop(name, None)
                deferred[name] = value
        return fields, list(deferred.items())

    def _read(self, body: bytes, blocks: Sequence[Ref], task: BaseTask) -> Fields:
        flags, moved_count, count = HEAD.unpack_from(body)
        table_end = HEAD.size + count * BUFFER.size
        table = list(BUFFER.iter_unpack(body[HEAD.size : table_end]))
        leases = [self._arena.lend(ref) for ref in blocks]
        view = self._arena.mapping.view
        stream = memoryview(body)[table_end:]
        if flags & STREAM_IN_BLOCK:
            index, position, length = table.pop()
            stream = view(leases[index], position, length)
        buffers = [view(leases[index], position, length) for index, position, length in table[moved_count:]]
        if flags & REFERS_TO_TASK:
            fields, moved = _TaskUnpickler(stream, buffers, task).load()
        else:
            fields, moved = pickle.loads(stream, buffers=buffers)
        deferred: list[tuple[str, SharedBytes]] = []
        for (name, kind, shape), (index, position, length) in zip(moved, table, strict=False):
            if kind in BYTES:
                deferred.append((name, SharedBytes(view(leases[index], position, length), BYTES[kind])))
            else:
                fields[name] = array_at(leases[index], position, kind, shape)
        return fields, deferred


def _apply(fields: dict[str, Any], changed: dict[str, Any]) -> Iterable[str]:
    """Apply a patch to fields; return the names in it."""
    deleted = changed.pop(DELETED).split("\0") if DELETED in changed else []
    for name in deleted:
        fields.pop(name, None)
    fields.update(changed)
    return [*deleted, *changed]


class _Carrier(BaseTask):
    """Carries an item of a stream as its only field."""

    item: Any


class _TaskUnpickler(pickle.Unpickler):
    """Unpickles fields that refer to their own task.

    Args:
        stream: The pickled fields.
        buffers: The buffers in blocks.
        task: The task that gets the fields.
    """

    def __init__(self, stream: memoryview, buffers: list[memoryview], task: BaseTask) -> None:
        super().__init__(io.BytesIO(stream), buffers=buffers)
        self._task = task

    def persistent_load(self, pid: Any) -> BaseTask:
        return self._task


def _fill_special(task: BaseTask, fields: dict[str, Any], deferred: list[tuple[str, SharedBytes]]) -> None:
    """Fill in a task whose class defines how that is done."""
    # The caller's own task has fields; one that a worker decodes has none yet.
    is_updated = bool(task.__dict__) and has_update(type(task))
    target: BaseTask = object.__new__(type(task)) if is_updated else task
    if STATE in fields:
        set_state(target, fields.pop(STATE), fields)
    else:
        target.__dict__ = fields
        for name, value in deferred:
            target._defer(name, value)
    if is_updated:
        task.update(target)


def _check_failure(task: BaseTask) -> None:
    # Set by a condition, or before the task was processed: what a handler sets is looked at before the task is encoded.
    failure = drop_runtime(task, "failure")
    if failure is not None:
        raise failure


def _pickle_class(cls: type[BaseTask]) -> bytes:
    try:
        return pickle.dumps(cls, 5)
    except Exception as exc:
        raise TaskNotPicklable(
            f"task class {cls.__qualname__} cannot travel to another process: {exc}; define it at the top of a module"
        ) from exc


def _blame(task: BaseTask, state: Any, exc: BaseException) -> str:
    name = type(task).__name__
    for field, value in state.items() if isinstance(state, dict) else ():
        if field == RUNTIME:
            continue
        try:
            pickler = pickle.Pickler(io.BytesIO(), 5, buffer_callback=lambda _: False)
            pickler.dispatch_table = make_reducers()
            pickler.dump(value)
        except Exception as error:
            return f"{name}.{field} of type {type(value).__qualname__} cannot travel to another process: {error}"
    return f"{name} cannot travel to another process: {exc}"
