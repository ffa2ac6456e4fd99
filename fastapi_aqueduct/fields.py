"""Fields of tasks whose bytes are in shared memory."""

from __future__ import annotations

from typing import Any

from .runtime import runtime_of, set_runtime


class SharedBytes:
    """Bytes in shared memory that are copied out on access.

    Args:
        view: The bytes in shared memory; the view keeps their block.
        kind: Type of the field: `bytes` or `bytearray`.
    """

    __slots__ = ("_copy", "kind", "view")

    def __init__(self, view: memoryview, kind: type[bytes] | type[bytearray]) -> None:
        self.view = view
        self.kind = kind
        self._copy: bytes | bytearray | None = None

    def copy(self) -> bytes | bytearray:
        """Return a copy of the bytes; the same one each time."""
        if self._copy is None:
            self._copy = self.kind(self.view)
        return self._copy

    def is_copy(self, value: object) -> bool:
        """Return whether a value is the unchanged copy, so that the original can be sent in its place."""
        return value is not None and value is self._copy and self.kind is bytes

    def has_become(self, value: object) -> bool:
        """Return whether a value is what a field with these bytes is when it was read only."""
        copy = self._copy
        return value is copy and copy is not None and (self.kind is bytes or memoryview(copy) == self.view)


class SharedField:
    """Descriptor of a field whose bytes are in shared memory until its first access.

    `BaseTask` sets it on the task's class when a field first has such a value. A ``__getattr__`` of `BaseTask` could do
    the same, but in a class with a ``__getattr__`` or a ``__delattr__`` Python reads and writes all attributes in its
    slowest way, and type checkers accept misspelt fields.

    Args:
        name: Name of the field.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, task: Any, owner: type) -> Any:
        if task is None:
            # The class has no default for the field, and a dataclass must not mistake this for one.
            raise AttributeError(f"type object {owner.__name__!r} has no attribute {self._name!r}")
        fields = task.__dict__
        if self._name not in fields:
            fields[self._name] = self._shared(task)[self._name].copy()
        return fields[self._name]

    def __set__(self, task: Any, value: object) -> None:
        task.__dict__[self._name] = value

    def __delete__(self, task: Any) -> None:
        if task.__dict__.pop(self._name, self) is self:
            self._shared(task)  # raises where there is none
        forget_shared(task, self._name)

    def _shared(self, task: Any) -> dict[str, SharedBytes]:
        shared: dict[str, SharedBytes] = runtime_of(task).get("deferred", {})
        if self._name not in shared:
            text = f"{type(task).__name__!r} object has no attribute {self._name!r}"
            raise AttributeError(text, name=self._name, obj=task)
        return shared


def forget_shared(task: Any, name: str) -> None:
    """Drop the bytes in shared memory that a field of a task becomes when it is read, if there are any."""
    shared = runtime_of(task).get("deferred", {})
    if name in shared:
        set_runtime(task, "deferred", {other: value for other, value in shared.items() if other != name})
