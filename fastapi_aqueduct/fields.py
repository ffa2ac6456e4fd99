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
        copy: Any = self._copy
        # Not two memoryviews: these compare one item after the other, fifty times as slowly.
        return value is copy and copy is not None and (self.kind is bytes or bool(copy == self.view))


NO_DEFAULT = object()
"""In the place of the value that a class has for a field, where it has none."""


class SharedField:
    """Descriptor of a field whose bytes are in shared memory until its first access.

    `BaseTask` sets it on the task's class when a field first has such a value. A ``__getattr__`` of `BaseTask` could do
    the same, but in a class with a ``__getattr__`` or a ``__delattr__`` Python reads and writes all attributes in its
    slowest way, and type checkers accept misspelt fields.

    Args:
        name: Name of the field.
        default: The value that the class has for it; `NO_DEFAULT`: none.

    Attributes:
        default: As given.
    """

    __slots__ = ("_name", "default")

    def __init__(self, name: str, default: object) -> None:
        self._name = name
        self.default = default

    @classmethod
    def of(cls, owner: type, name: str) -> SharedField | None:
        """Return a descriptor for a class; None if the class has one of its own there, such as a property.

        Args:
            owner: The class.
            name: Name of the field.
        """
        found: object = next((vars(base)[name] for base in owner.__mro__ if name in vars(base)), NO_DEFAULT)
        if isinstance(found, SharedField):  # of a class above
            found = found.default
        return None if hasattr(type(found), "__get__") else cls(name, found)

    def __get__(self, task: Any, owner: type) -> Any:
        if task is None:
            if self.default is NO_DEFAULT:  # a dataclass must not mistake this for one
                raise AttributeError(f"type object {owner.__name__!r} has no attribute {self._name!r}")
            return self.default
        fields = task.__dict__
        if self._name not in fields:
            shared = runtime_of(task).get("deferred", {})
            if self._name not in shared and self.default is not NO_DEFAULT:
                return self.default
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
