"""Patches: the fields of a task that a step has set or deleted.

A step in a group answers with a patch, since its task is in the hands of other steps at the same time:

* its worker calls ``Changes.begin(task)`` before the handler and ``Changes.encode(task)`` after it, and sends the patch
  with `Status.PATCH`;
* the dispatcher reads the names with ``fields_of(patch)``, and appends patches to the task with
  ``join(content, patches)``; it unpickles nothing;
* the worker or the caller that decodes the joined task next applies the patches in their order (`Codec`).

A field counts as set if another object has been assigned to it. If its object may change in place, it also counts if
its pickle is another one than before. Arrays and bytes in shared memory are compared by the place where they are: they
are read-only, or shared with all branches.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...exceptions import TaskNotPicklable
from ...fields import SharedBytes
from ...runtime import RUNTIME, runtime_of, set_runtime
from ...task import BaseTask
from ..memory.arena import Arena
from ..memory.layout import Ref
from .arrays import array_type, make_reducers, reduce_array
from .codec import Codec, Encoded, new_tuple
from .encoder import DELETED, PLAIN, STATE
from .joined import MalformedTask, join_parts
from .task_state import get_state, has_state, own_fields

_FIXED = PLAIN | {bytes, complex}
"""Types whose values never change."""

_SIZE = 4

Fingerprint = tuple[bytes, tuple[tuple[Ref, int, int], ...]]
"""What a value is like: its pickle, and the places of what it has in shared memory."""


def join(content: Encoded, patches: Iterable[Encoded]) -> Encoded:
    """Return a task with patches that apply when it is decoded.

    Args:
        content: The task, with or without patches.
        patches: Further patches.

    Returns:
        The task; its blocks are those of all, each once.
    """
    parts = [(patch.body[_SIZE + _names_size(patch) :], patch.blocks) for patch in patches]
    if not parts:
        return content
    body, blocks = join_parts(content.body, content.blocks, parts)
    return new_tuple(Encoded, (content.kind, body, blocks, content.extras))


def fields_of(patch: Encoded) -> list[str]:
    """Return the names of the fields that a patch sets or deletes, without reading their values.

    Raises:
        MalformedTask: The patch is malformed.
    """
    end = _SIZE + _names_size(patch)
    if len(patch.body) <= end:
        raise MalformedTask("a patch is cut off")
    try:
        names = patch.body[_SIZE:end].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as exc:
        raise MalformedTask(f"the names in a patch are malformed: {exc}") from exc
    return names.split("\0") if names else []


def _names_size(patch: Encoded) -> int:
    return int.from_bytes(patch.body[:_SIZE], "little")


@dataclass(slots=True, eq=False)
class _Before:
    """A task as it came, in its runtime state, so that it ends with the task.

    Attributes:
        fields: Its fields; of a class with ``__getstate__`` its state.
        own: Beside a state, the fields of `BaseTask`.
        deferred: Its fields in shared memory that were not read.
        fingerprints: Of its fields that may change in place.
    """

    fields: Mapping[str, Any]
    own: dict[str, Any]
    deferred: dict[str, SharedBytes]
    fingerprints: dict[str, Fingerprint | None]


class Changes:
    """Finds what a handler changes of its tasks, and encodes that.

    Args:
        codec: Encodes fields.
        arena: The shared memory.
    """

    def __init__(self, codec: Codec, arena: Arena) -> None:
        self._codec = codec
        self._arena = arena
        self._reducers = make_reducers()
        self._task: BaseTask | None = None
        self._places: list[tuple[Ref, int, int]] = []
        self._most = sys.maxsize

    def begin(self, task: BaseTask) -> None:
        """Note what a task is like before the handler gets it.

        Raises:
            TaskNotPicklable: Its ``__getstate__`` returns something else than a dict of which all keys are str.
        """
        deferred = runtime_of(task).get("deferred", {})
        fields, own = self._fields(task)
        fingerprints = {
            name: self._fingerprint(task, value) for name, value in fields.items() if type(value) not in _FIXED
        }
        set_runtime(task, "before", _Before(fields, own, deferred, fingerprints))

    def encode(self, task: BaseTask) -> tuple[bytes, tuple[Ref, ...]]:
        """Encode what has changed; return the body of the patch and its blocks, as `Codec.encode_fields` does.

        Raises:
            TaskNotPicklable, ArenaFull: As for `Codec.encode_fields`.
        """
        if RUNTIME in task.__dict__:
            self._codec.share(task)
        before: _Before = runtime_of(task).get("before") or _Before({}, {}, {}, {})
        fields, own = self._fields(task)
        changed = {name: value for name, value in fields.items() if self._is_changed(task, name, value, before)}
        deferred = runtime_of(task).get("deferred", {})
        gone = (before.fields.keys() | before.deferred) - fields.keys() - deferred.keys()
        names = changed.keys() | gone
        content: dict[str, Any] = changed
        if gone:
            content[DELETED] = "\0".join(sorted(gone))
        if has_state(type(task)):
            content = {STATE: content}
            for name, value in own.items():
                if before.own.get(name) is not value:
                    content[name] = value
                    names |= {name}
        moved = {name: value for name, value in deferred.items() if value is not before.deferred.get(name)}
        if moved:
            content[RUNTIME] = {"deferred": moved}
            names |= moved.keys()
        body, blocks = self._codec.encode_part(task, content)
        listed = "\0".join(sorted(names)).encode("utf-8", "surrogatepass")
        return b"".join([len(listed).to_bytes(_SIZE, "little"), listed, body]), blocks

    def _fields(self, task: BaseTask) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what of a task is compared, and beside a state the fields of `BaseTask`."""
        if not has_state(type(task)):
            fields = task.__dict__.copy()
            fields.pop(RUNTIME, None)
            return fields, {}
        state = get_state(task)
        if not isinstance(state, dict):
            raise TaskNotPicklable(
                f"{type(task).__qualname__}.__getstate__ returns a {type(state).__qualname__}: in a group it must "
                "return a dict, so that the results of the branches can be merged by field"
            )
        kinds = {type(name) for name in state} - {str}
        if kinds:
            raise TaskNotPicklable(
                f"{type(task).__qualname__}.__getstate__ returns a dict with a key of type "
                f"{kinds.pop().__qualname__}: in a group its keys must be str, which name the fields in patches"
            )
        return dict(state), own_fields(task)

    def _is_changed(self, task: BaseTask, name: str, value: Any, before: _Before) -> bool:
        if name not in before.fields:
            shared = before.deferred.get(name)
            return shared is None or not shared.has_become(value)
        known = before.fields[name]
        if known is not value and not has_state(type(task)):
            return True
        if type(value) in _FIXED or type(known) in _FIXED:  # what a state consists of may be made anew each time
            return known is not value and (type(known) is not type(value) or bool(known != value))
        fingerprint = before.fingerprints.get(name)
        return fingerprint is None or self._fingerprint(task, value, len(fingerprint[0])) != fingerprint

    def _fingerprint(self, task: BaseTask, value: Any, most: int = sys.maxsize) -> Fingerprint | None:
        """Return what a value is like; None if it cannot be pickled, or has a buffer of more than ``most`` bytes."""
        kind = array_type()
        if kind is not None and kind not in self._reducers:
            self._reducers[kind] = reduce_array
        self._reducers.setdefault(type(task), self._reduce_task)
        stream = _Stream()
        pickler = pickle.Pickler(stream, 5, buffer_callback=self._is_in_band)
        pickler.dispatch_table = self._reducers
        self._task, self._most = task, most
        try:
            pickler.dump(value)
            return b"".join(stream.parts), tuple(self._places)
        except Exception:  # of a user's object; if it stays so, encoding it says what is wrong
            return None
        finally:
            self._task = None
            self._places.clear()

    def _is_in_band(self, buffer: pickle.PickleBuffer) -> bool:
        with buffer.raw() as view:
            found = self._arena.find(view)
            if found is None:
                if view.nbytes > self._most:
                    raise _IsLonger
                return True
            self._places.append((*found, view.nbytes))
            return False

    def _reduce_task(self, task: BaseTask) -> Any:
        return (str, ()) if task is self._task else task.__reduce_ex__(5)


class _IsLonger(Exception):
    """A buffer makes a value longer than it was, so it has changed: its bytes need not be copied to know that."""


class _Stream:
    """A file that keeps what a pickler writes as a list of pieces."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append
