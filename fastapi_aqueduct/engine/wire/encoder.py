"""Encodes the fields of tasks as bytes and references to shared memory; `codec` describes the format."""

from __future__ import annotations

import copyreg
import pickle
import struct
from typing import Any

from ...runtime import RUNTIME, Runtime, drop_runtime, runtime_of
from ...task import BaseTask
from ..memory.arena import THRESHOLD, Arena
from ..memory.layout import Ref
from ..memory.mapping import is_shared
from .arrays import array_type, make_reducers, reduce_array, typecode
from .task_state import own_fields

HEAD = struct.Struct("<BII")
"""Flags, number of fields outside the pickle, number of buffers. The buffers of these fields come first, then those of
the pickle, and last the pickle itself, if it is in a block."""

BUFFER = struct.Struct("<IQQ")
"""Index of the block, position in it, length."""

STREAM_IN_BLOCK = 1
REFERS_TO_TASK = 2
"""The fields refer to the task itself; the persistent id `TASK_ID` replaces it in the pickle."""

TASK_ID = "task"

STATE = ""
"""The name, beside `own_fields`, of the value of ``__getstate__``. No field has this name."""

DELETED = "\0"
"""The name, in a patch, of the names of the fields that the step has deleted. No field has this name."""

PLAIN = frozenset({int, float, str, bool, type(None)})
BYTES: dict[str, type[bytes] | type[bytearray]] = {bytes.__name__: bytes, bytearray.__name__: bytearray}
_FLAT = PLAIN.union(BYTES.values())
"""Types whose values refer to no other objects."""


class TaskEncoder:
    """Encodes one task after the other, and frees the blocks of a task whose encoding fails.

    Args:
        arena: The shared memory for large buffers.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._blocks: list[Ref] = []
        self._indices: dict[int, int] = {}
        self._buffers: list[tuple[int, int, int]] = []
        self._arrays: dict[int, tuple[int, int, int]] = {}
        self._allocated: list[int] = []
        self._task: BaseTask | None = None
        self._reducers = make_reducers()
        self._stream = _Stream()
        self._pickler = self._make_pickler()  # reused: to make one takes as long as to use it

    def write(self, task: BaseTask) -> tuple[bytes, tuple[Ref, ...]]:
        """Encode the fields of a task; return the body and the blocks that it refers to.

        Raises:
            ArenaFull: The shared memory has no space for a large field.
            Exception: An error of pickling a user's object.
        """
        if RUNTIME in task.__dict__:
            self.share(task)
        return self._write(task, task.__dict__, can_move=True)

    def share(self, task: BaseTask) -> None:
        """Share the noted fields of the task that are not in this flow's memory yet."""
        for name, value in runtime_of(task).get("noted", {}).items():
            # Else it was replaced since, or lies in this flow's memory already.
            if task.__dict__.get(name) is value and self._arena.find(value) is None:
                task._put_shared(name, self._arena.share(value))
        drop_runtime(task, "noted")  # where there is no room, they stay noted for the next try

    def write_state(self, task: BaseTask, state: Any) -> tuple[bytes, tuple[Ref, ...]]:
        """Encode the value of ``__getstate__`` as `write` does fields.

        No field is kept out of the pickle as a whole object, since only the task's class can interpret its state.
        """
        return self._write(task, {STATE: state, **own_fields(task)}, can_move=False)

    def write_part(self, task: BaseTask, content: dict[str, Any], can_move: bool) -> tuple[bytes, tuple[Ref, ...]]:
        """Encode some fields of a task as `write` does all.

        Args:
            task: The task.
            content: The fields.
            can_move: Whether large fields may be kept out of the pickle.
        """
        return self._write(task, content, can_move)

    def _write(self, task: BaseTask, content: dict[str, Any], can_move: bool) -> tuple[bytes, tuple[Ref, ...]]:
        self._task = task
        flags = 0
        try:
            fields, moved = self._move(content) if can_move else (content, [])
            try:
                pickled = self._pickle(fields, moved)
            except _RefersToTask:
                self._free()
                flags = REFERS_TO_TASK
                fields, moved = self._move(content) if can_move else (content, [])
                pickled = self._pickle_with_task(fields, moved)
            return self._finish(pickled, len(moved), flags)
        except BaseException:
            self._free()
            raise
        finally:
            self._clear()  # a reference would keep the blocks of the task
            self._task = None

    def _free(self) -> None:
        for offset in self._allocated:
            self._arena.free(offset)
        self._clear()

    def _clear(self) -> None:
        for kept in (self._blocks, self._indices, self._buffers, self._arrays, self._allocated):
            kept.clear()

    def _move(self, content: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str, Any]]]:
        """Move the large fields of a task into blocks, unless they are in one already.

        Returns:
            The other fields; and for each moved field its name, its type, and the shape of an array.
        """
        fields = content.copy()
        runtime: Runtime = fields.pop(RUNTIME, {})
        moved: list[tuple[str, str, Any]] = []
        for name, value in runtime.get("deferred", {}).items():
            if name not in fields or value.is_copy(fields[name]):
                fields.pop(name, None)
                self._add(value.view, 0)
                moved.append((name, value.kind.__name__, None))
        array = array_type()
        if array is not None and array not in self._reducers:
            self._reducers[array] = reduce_array
        # Another object may contain the same array: then both are pickled, so that they stay the same array.
        are_flat = _FLAT.issuperset({*map(type, fields.values())} - {array})
        for name, value in list(fields.items()):
            kind = type(value)
            if kind in PLAIN:
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
        if type(self._task) not in self._reducers:
            self._reducers[type(self._task)] = self._reduce_task
        try:
            self._pickler.dump((fields, moved))
            return b"".join(self._stream.parts)
        except BaseException:
            self._pickler = self._make_pickler()  # the old one may have stopped inside an object
            raise
        finally:
            self._pickler.clear_memo()  # it would keep views of blocks
            self._stream.parts.clear()

    def _pickle_with_task(self, fields: dict[str, Any], moved: list[tuple[str, str, Any]]) -> bytes:
        # Only where it is needed: this pickler calls a function for every object, also for every number.
        stream = _Stream()
        pickler = _TaskPickler(stream, 5, buffer_callback=self._keep_in_stream)
        pickler.dispatch_table = self._reducers
        pickler.task = self._task
        pickler.dump((fields, moved))
        return b"".join(stream.parts)

    def _reduce_task(self, task: BaseTask) -> Any:
        if task is self._task:
            raise _RefersToTask
        reduce = copyreg.dispatch_table.get(type(task))
        return task.__reduce_ex__(5) if reduce is None else reduce(task)

    def _make_pickler(self) -> pickle.Pickler:
        pickler = pickle.Pickler(self._stream, 5, buffer_callback=self._keep_in_stream)
        pickler.dispatch_table = self._reducers
        return pickler

    def _finish(self, pickled: bytes, moved_count: int, flags: int) -> tuple[bytes, tuple[Ref, ...]]:
        if len(pickled) >= THRESHOLD:
            flags |= STREAM_IN_BLOCK
            self._copy(memoryview(pickled))
            pickled = b""
        head = HEAD.pack(flags, moved_count, len(self._buffers))
        table = [BUFFER.pack(*buffer) for buffer in self._buffers]
        return b"".join([head, *table, pickled]), tuple(self._blocks)

    def _keep_in_stream(self, buffer: pickle.PickleBuffer) -> bool:
        with buffer.raw() as view:
            return not self._add(view)

    def _add_array(self, value: Any) -> bool:
        """Move an array if it is large; an array in two fields is moved once."""
        if id(value) in self._arrays:
            self._buffers.append(self._arrays[id(value)])
        elif self._add(value):
            self._arrays[id(value)] = self._buffers[-1]
        else:
            return False
        return True

    def _add(self, buffer: Any, least: int = THRESHOLD) -> bool:
        """Move a buffer that has ``least`` bytes, is in a block already, or is shared."""
        found = self._arena.find(buffer)
        if found is not None:
            self._refer(*found, buffer.nbytes)
            return True
        # A buffer that is shared in the arena of another flow may be written in place here, too.
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


class _RefersToTask(Exception):
    """The fields of the task refer to the task. `TaskEncoder` catches it, and writes them in another way."""


class _TaskPickler(pickle.Pickler):
    """Pickles a persistent id in place of the task whose fields are pickled."""

    task: BaseTask | None = None

    def persistent_id(self, value: Any) -> str | None:
        return TASK_ID if value is self.task else None


class _Stream:
    """A file that keeps what a pickler writes as a list of pieces."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append
