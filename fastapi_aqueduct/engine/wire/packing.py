"""Tasks in files: a pickle, and large buffers beside it.

A pickle that is read was written by this package, to a file that only its user can write. Nothing that comes in a
request is unpickled.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...exceptions import TaskNotPicklable
from ...runtime import RUNTIME
from ...task import BaseTask
from .arrays import make_reducers
from .task_state import has_state

THRESHOLD = 16 * 1024
"""Bytes from which on a buffer is kept out of the pickle; the same number as for tasks that travel."""

_ALIGNMENT = 64
_COUNT = struct.Struct("<I")
_SIZE = struct.Struct("<Q")


class Packed(NamedTuple):
    """A packed task.

    Attributes:
        head: The sizes of the buffers, and the pickle.
        buffers: The large buffers, which may be views on shared memory.
    """

    head: bytes
    buffers: list[memoryview]


def pack(task: BaseTask) -> Packed:
    """Pack a task with all its fields. Its buffers are not copied.

    Raises:
        TaskNotPicklable: A field cannot be pickled.
    """
    buffers: list[memoryview] = []
    stream = io.BytesIO()
    try:
        _pickler(stream, buffers).dump(_copy(task))
    except TaskNotPicklable:
        raise
    except Exception as exc:  # a user's object may raise any error
        raise TaskNotPicklable(f"{type(task).__name__} cannot be stored in a file: {exc}") from exc
    sizes = [_SIZE.pack(len(buffer)) for buffer in buffers]
    return Packed(b"".join([_COUNT.pack(len(sizes)), *sizes, stream.getbuffer()]), buffers)


def unpack(
    head: bytes,
    content: memoryview,
    load: Callable[[memoryview, Sequence[memoryview]], Any] = lambda data, buffers: pickle.loads(data, buffers=buffers),
) -> BaseTask:
    """Return a task that was packed.

    Args:
        head: Of `Packed`.
        content: The buffers, at their `positions`. One that was read-only is so again.
        load: Unpickles.

    Raises:
        Exception: Its class, or a value, cannot be restored; for example, the class has gone since. Or the buffers are
            cut off.
    """
    sizes, start = _sizes(head)
    buffers = [content[place : place + size] for place, size in zip(positions(sizes), sizes, strict=True)]
    if missing := sum(sizes) - sum(map(len, buffers)):  # what is cut off would be shorter bytes, without an error
        raise pickle.UnpicklingError(f"its end is missing, at least {missing} bytes")
    task = load(memoryview(head)[start:], buffers)
    if not isinstance(task, BaseTask):
        raise pickle.UnpicklingError(f"{type(task).__qualname__} is no task")
    return task


def copy_of(packed: Packed) -> BaseTask:
    """Return a copy of a packed task, which shares no memory with it.

    Raises:
        Exception: As for `unpack`.
    """
    places = positions([len(buffer) for buffer in packed.buffers])
    content = bytearray(places[-1] + len(packed.buffers[-1]) if places else 0)
    for place, buffer in zip(places, packed.buffers, strict=True):
        content[place : place + len(buffer)] = buffer
    return unpack(packed.head, memoryview(content))


def pack_value(value: Any) -> bytes:
    """Pack a value that is kept outside of shared memory; it may contain views of memory."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 5)
    pickler.dispatch_table = make_reducers()
    pickler.dump(value)
    return stream.getvalue()


def unpack_value(content: bytes) -> Any:
    """Return a value that was packed."""
    return pickle.loads(content)


def has_buffers(head: bytes) -> bool:
    """Tell whether a packed task has buffers, and so a file."""
    (count,) = _COUNT.unpack_from(head)
    return bool(count)


def positions(sizes: list[int]) -> list[int]:
    """Return where buffers of these sizes begin in a file."""
    places, end = [], 0
    for size in sizes:
        places.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return places


def _sizes(head: bytes) -> tuple[list[int], int]:
    (count,) = _COUNT.unpack_from(head)
    start = _COUNT.size + count * _SIZE.size
    return [size for (size,) in _SIZE.iter_unpack(head[_COUNT.size : start])], start


def _pickler(stream: io.BytesIO, buffers: list[memoryview]) -> pickle.Pickler:
    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Tell whether a buffer is to be in the pickle."""
        view = buffer.raw()
        if view.nbytes < THRESHOLD:
            return True
        buffers.append(view)
        return False

    pickler = pickle.Pickler(stream, 5, buffer_callback=keep)
    pickler.dispatch_table = make_reducers()
    return pickler


class _Large:
    """Stands for large bytes in a pickle, which would contain them."""

    def __init__(self, value: bytes | bytearray) -> None:
        self._value = value

    def __reduce__(self) -> Any:
        return type(self._value), (pickle.PickleBuffer(self._value),)


def _copy(task: BaseTask) -> BaseTask:
    """Return a copy without what belongs to this process."""
    task._copy_out()
    cls = type(task)
    copy: BaseTask = object.__new__(cls)
    fields = {name: value for name, value in task.__dict__.items() if name != RUNTIME}
    if not has_state(cls):  # its own state may be made of the values
        for name, value in fields.items():
            if type(value) in (bytes, bytearray) and len(value) >= THRESHOLD:
                fields[name] = _Large(value)
    copy.__dict__.update(fields)
    return copy
