"""How the fields of a task travel: which bytes of them are in shared memory, and which are pickled."""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection, Iterator
from typing import Any

from ...call import Call
from ...engine.memory.arena import THRESHOLD, Arena
from ...engine.wire.arrays import make_reducers
from ...model_call import ModelCall
from ...runtime import RUNTIME, runtime_of
from ...task import BaseTask
from .report import Field, Travel

_OWN = {RUNTIME, *BaseTask.__annotations__}
"""What each task has."""

_OF_CALLS = {name for kind in (Call, ModelCall) for name in kind.__annotations__} - {"result"}
"""What the calls of functions have beside their arguments."""

_COUNTED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


def list_fields(task: BaseTask, arena: Arena, known: Collection[int]) -> Iterator[Field]:
    """List the fields of a task that has arrived, as the codec has sent them.

    Args:
        task: The task, decoded: its large fields are views of blocks.
        arena: The shared memory.
        known: Offsets of the blocks that were there before.
    """
    deferred = runtime_of(task).get("deferred", {})
    hidden = _OWN | _OF_CALLS if isinstance(task, Call) else _OWN
    for name, shared in deferred.items():
        travel = _travel(_offsets_of(shared.view, arena), known)
        yield Field(name, f"{shared.kind.__name__} ({len(shared.view)})", len(shared.view), 0, travel)
    for name, value in task.__dict__.items():
        if name not in hidden and name not in deferred:
            yield _pickled_field(name, value, arena, known)


def offsets_of(task: BaseTask, arena: Arena) -> set[int]:
    """Return the offsets of the blocks that the fields of a task refer to."""
    found: set[int] = set()
    for shared in runtime_of(task).get("deferred", {}).values():
        found |= _offsets_of(shared.view, arena)
    for name, value in task.__dict__.items():
        if name not in _OWN:
            found |= _Pickle(value, arena).offsets
    return found


def describe_type(value: object) -> str:
    """Describe a value in a few words: its type, and how large it is."""
    kind = type(value)
    name = ("" if kind.__module__ == "builtins" else f"{kind.__module__}.") + kind.__qualname__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{name} {value.dtype} {tuple(value.shape)}"
    return f"{name} ({len(value)})" if isinstance(value, _COUNTED) else name


def _offsets_of(view: memoryview, arena: Arena) -> set[int]:
    found = arena.find(view)
    return set() if found is None else {found[0].offset}


def _pickled_field(name: str, value: Any, arena: Arena, known: Collection[int]) -> Field:
    pickled = _Pickle(value, arena)
    travel = _travel(pickled.offsets, known) if pickled.shared > pickled.size else Travel.PICKLED
    return Field(name, describe_type(value), pickled.size + pickled.shared, pickled.size, travel)


def _travel(offsets: set[int], known: Collection[int]) -> Travel:
    return Travel.REFERENCE if offsets and offsets.issubset(known) else Travel.SHARED


class _Pickle:
    """What the codec makes of a value.

    Args:
        value: The value.
        arena: The shared memory.

    Attributes:
        size: Bytes of the pickle.
        shared: Bytes that stay out of it, in shared memory.
        offsets: Offsets of the blocks in which they are.
    """

    def __init__(self, value: Any, arena: Arena) -> None:
        self.shared = 0
        self.offsets: set[int] = set()
        self._arena = arena
        if type(value) in (bytes, bytearray) and len(value) >= THRESHOLD:
            self.size, self.shared = 0, len(value)  # of a task that has not travelled yet
            return
        stream = io.BytesIO()
        pickler = pickle.Pickler(stream, 5, buffer_callback=self._keep)
        pickler.dispatch_table = make_reducers()
        pickler.dump(value)
        self.size = len(stream.getbuffer())

    def _keep(self, buffer: pickle.PickleBuffer) -> bool:
        with buffer.raw() as view:
            found = self._arena.find(view)
            if found is not None:
                self.offsets.add(found[0].offset)
            elif len(view) < THRESHOLD:
                return True
            self.shared += len(view)
        return False
