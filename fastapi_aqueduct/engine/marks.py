"""Marks: what the scheduler needs to know of a task that waits for a step, and only who has the task open can tell."""

from __future__ import annotations

import hashlib
import marshal
import operator
import struct
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NamedTuple, Protocol

from ..exceptions import ConfigurationError, InvalidArgument, got
from ..task import BaseTask

Key = str | Callable[[Any], Any]
"""Name of a field, or a function of a task."""

LONGEST_KEY = 64
"""Bytes of a canonical key; a longer one is replaced by its digest."""

LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000
"""Of a tenant. Beyond them a share is none, and sums of weights lose the small ones."""

_PLAIN = frozenset({bool, bytes, float, int, str, type(None)})
_HEAD = struct.Struct("<QdBBBB")
_BRANCH = struct.Struct("<HH")
_DIGEST = b"#"  # no marshalled value begins with this byte


class Marks(NamedTuple):
    """What is known of a task that waits for a step.

    Attributes:
        batch_key: Only tasks with the same one share a batch.
        cost: What it adds to the cost of its batch.
        coalesce_key: Tasks with the same one share one run; empty: it shares none.
        tenant: Who it belongs to; it goes with the task to later steps.
        weight: The share of that tenant.
        branches: If a group comes next, the marks for the first step of each branch, by the index of the step.
    """

    batch_key: bytes = b""
    cost: int = 0
    coalesce_key: bytes = b""
    tenant: bytes = b""
    weight: float = 1.0
    branches: tuple[tuple[int, Marks], ...] = ()

    def pack(self) -> bytes:
        """Return the marks as bytes; empty where there are none. No key is longer than 255 bytes."""
        if self == NO_MARKS:
            return b""
        batch_key, cost, coalesce_key, tenant, weight, branches = self
        head = _HEAD.pack(cost, weight, len(batch_key), len(coalesce_key), len(tenant), len(branches))
        parts = [head, batch_key, coalesce_key, tenant]
        for step, marks in branches:
            packed = marks.pack()
            parts += [_BRANCH.pack(step, len(packed)), packed]
        return b"".join(parts)

    @staticmethod
    def unpack(data: bytes) -> Marks:
        """Read what `pack` has returned.

        Raises:
            struct.error: It is something else.
        """
        if not data:
            return NO_MARKS
        cost, weight, *sizes, count = _HEAD.unpack_from(data)
        keys = struct.Struct("<{}s{}s{}s".format(*sizes))
        batch_key, coalesce_key, tenant = keys.unpack_from(data, _HEAD.size)
        end = _HEAD.size + keys.size
        branches: list[tuple[int, Marks]] = []
        for _ in range(count):
            step, size = _BRANCH.unpack_from(data, end)
            end += _BRANCH.size
            branches.append((step, Marks.unpack(data[end : end + size])))
            end += size
        if end != len(data):
            raise struct.error(f"marks of {len(data)} bytes end after {end}")
        return Marks(batch_key, cost, coalesce_key, tenant, weight, tuple(branches))

    def of_branch(self, step: int) -> Marks:
        """Return what is to be known of a task at the first step of a branch.

        Args:
            step: Index of that step.
        """
        return dict(self.branches).get(step, NO_MARKS) if self.branches else NO_MARKS

    def inherit(self, earlier: Marks) -> Marks:
        """Return the same marks with the tenant of earlier ones of the task: its worker does not know it.

        Args:
            earlier: What was known of the task at the step before.
        """
        return self._replace(tenant=earlier.tenant, weight=earlier.weight) if earlier.tenant else self


NO_MARKS = Marks()


class CostDeclared(Protocol):
    """How the cost of a task is declared."""

    @property
    def of(self) -> Key:
        """Its cost."""


class Marking(Protocol):
    """What a step declares about its tasks."""

    @property
    def batch_key(self) -> Key | None:
        """Only tasks with the same one share a batch; None: all do."""

    @property
    def batch_cost(self) -> CostDeclared | None:
        """What a task adds to the cost of its batch; None: batches have none."""

    @property
    def coalesce_key(self) -> Key | None:
        """Tasks with the same one share one run; None: none do."""


class Marker(NamedTuple):
    """Reads the marks of the tasks that visit one step.

    Attributes:
        step: Name of the step, for errors.
        batch_key: As its `FlowStep` has it.
        cost: The same.
        coalesce_key: The same.
    """

    step: str
    batch_key: Key | None = None
    cost: Key | None = None
    coalesce_key: Key | None = None

    def read(self, task: BaseTask) -> Marks:
        """Return the marks of a task.

        Raises:
            ConfigurationError: A field is missing, or a value is none that can be a key or a cost.
            Exception: Raised by a function of the user.
        """
        batch_key = b"" if self.batch_key is None else self._key("batch_key", self.batch_key, task)
        cost = 0 if self.cost is None else self._cost(self.cost, task)
        return Marks(batch_key, cost, b"" if self.coalesce_key is None else self._coalesce_key(self.coalesce_key, task))

    def _coalesce_key(self, key: Key, task: BaseTask) -> bytes:
        value = self._value("coalesce_key", key, task)
        if value is None:  # such as a digest that was not asked for: it must not make all tasks equal
            return b""
        cls = type(task)  # the result of one class is none of another one
        return self._canonical("coalesce_key", (cls.__module__, cls.__qualname__, value))

    def _key(self, option: str, key: Key, task: BaseTask) -> bytes:
        return self._canonical(option, self._value(option, key, task))

    def _canonical(self, option: str, value: Any) -> bytes:
        try:
            return canonical(value)
        except InvalidArgument as exc:
            raise InvalidArgument(f"{option} of step {self.step}: {exc}") from None

    def _cost(self, cost: Key, task: BaseTask) -> int:
        value = self._value("batch_cost", cost, task)
        try:
            number = operator.index(value)
        except TypeError:
            number = -1
        if not 0 <= number < 1 << 64:
            raise ConfigurationError(f"batch_cost of step {self.step} needs a whole number >= 0, {got(value)}")
        return number

    def _value(self, option: str, key: Key, task: BaseTask) -> Any:
        if not isinstance(key, str):
            return key(task)
        try:
            return getattr(task, key)
        except AttributeError:
            raise ConfigurationError(
                f"{option} of step {self.step} is the field {key!r}, which this {type(task).__name__} does not have"
            ) from None


def make_markers(steps: Iterable[tuple[str, Marking]]) -> list[Marker | None]:
    """Return what reads the marks of each step, None for a step without; nothing if no step has any.

    Args:
        steps: The steps, each with its name.
    """
    markers: list[Marker | None] = []
    for name, step in steps:
        cost = None if step.batch_cost is None else step.batch_cost.of
        marker = Marker(name, step.batch_key, cost, step.coalesce_key)
        markers.append(marker if any(option is not None for option in marker[1:]) else None)
    return markers if any(markers) else []


def canonical(value: Any) -> bytes:
    """Return a value as bytes that are the same in every process; equal values of one type have the same.

    Args:
        value: A text, number, truth value, None, `bytes`, member of an `Enum`, scalar of numpy, or a tuple or list
            of them.

    Raises:
        InvalidArgument: It is something else; the message says what it must be.
    """
    data = marshal.dumps(_plain(value), 2)
    return data if len(data) <= LONGEST_KEY else _DIGEST + hashlib.blake2b(data, digest_size=32).digest()


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in (tuple, list):
        return kind(map(_plain, value))
    if isinstance(value, Enum):
        return _plain(value.value)
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == () and type(value.item()) in _PLAIN:
        return value.item()
    if isinstance(value, (str, int, float)):  # of a subclass, such as a text with methods
        return str.__str__(value) if isinstance(value, str) else int(value) if isinstance(value, int) else float(value)
    raise InvalidArgument(f"a key must be a text, a number, bytes or a tuple of them, {got(value)}")
