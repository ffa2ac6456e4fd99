"""Turns tasks into bytes and references to shared memory, and back.

The fields of a task are pickled (protocol 5, PEP 574). Buffers of `THRESHOLD` bytes and more leave the stream: one
that already lies in the arena becomes a reference to its block, any other is copied into a block of its own. Arrays and
`bytes` that are fields themselves leave it as a whole, which is how most of them travel, and takes less. A stream that
is itself that long goes to a block too, so what a socket carries stays small.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

from ...exceptions import ArenaFull, TaskNotPicklable
from ...runtime import RUNTIME, drop_runtime
from ...task import BaseTask, SharedBytes
from ..memory.arena import THRESHOLD, Arena
from ..memory.layout import Ref
from .arrays import array_at, make_reducers
from .encoder import BUFFER, BYTES, HEAD, PLAIN, REFERS_TO_TASK, STATE, STREAM_IN_BLOCK, TaskEncoder
from .task_state import get_state, has_state, set_state

# A body is either this head with its table and stream, or a stream alone, which begins with the opcode PROTO: most
# tasks are made of plain values, and those need neither a head nor a look for buffers.
_PICKLE = 0x80

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
        self._encoder = TaskEncoder(arena)
        self._kinds: dict[type[BaseTask], bytes] = {}
        self._classes: dict[bytes, type[BaseTask]] = {}
        self._stateful: set[type[BaseTask]] = set()

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
            self._learn(cls)
        body, blocks = self.encode_fields(task)
        return new_tuple(Encoded, (kind, body, blocks))

    def encode_fields(self, task: BaseTask) -> tuple[bytes, tuple[Ref, ...]]:
        """Take a task apart whose class the receiver knows: the body and the blocks of `encode`."""
        if self._stateful and type(task) in self._stateful:
            return self._encode_state(task)
        fields = task.__dict__
        if PLAIN.issuperset(map(type, fields.values())):
            body = pickle.dumps(fields, 5)
            if len(body) < THRESHOLD:
                return body, ()
        if RUNTIME in fields:
            _check_failure(task)
        try:
            return self._encoder.write(task)
        except (ArenaFull, MemoryError):
            raise
        except Exception as exc:  # a user's object may raise anything
            raise TaskNotPicklable(_blame(task, task.__dict__, exc)) from exc

    def _learn(self, cls: type[BaseTask]) -> None:
        # Once for each class: the fields of most tasks are their state.
        if has_state(cls):
            self._stateful.add(cls)

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
        """Put a task together; its large fields are views, each block is held by a lease behind them."""
        cls = self._classes.get(encoded.kind)
        if cls is None:
            cls = self._classes[encoded.kind] = pickle.loads(encoded.kind)
            self._learn(cls)
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
        fields, deferred = self._read(encoded, task)
        if self._stateful and type(task) in self._stateful:
            set_state(task, fields.pop(STATE), fields)
            return
        task.__dict__ = fields
        for name, value in deferred:
            task._defer(name, value)

    def _read(self, encoded: Encoded, task: BaseTask) -> tuple[dict[str, Any], list[tuple[str, SharedBytes]]]:
        body = encoded.body
        flags, moved_count, count = HEAD.unpack_from(body)
        table_end = HEAD.size + count * BUFFER.size
        table = list(BUFFER.iter_unpack(body[HEAD.size : table_end]))
        leases = [self._arena.lend(ref) for ref in encoded.blocks]
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


class _TaskUnpickler(pickle.Unpickler):
    """Reads the fields of a task that refer to the task.

    Args:
        stream: The pickled fields.
        buffers: What lies in blocks.
        task: The task that gets the fields.
    """

    def __init__(self, stream: memoryview, buffers: list[memoryview], task: BaseTask) -> None:
        super().__init__(io.BytesIO(stream), buffers=buffers)
        self._task = task

    def persistent_load(self, pid: Any) -> BaseTask:
        return self._task


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
