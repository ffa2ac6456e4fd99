"""What a field of a task is while its bytes lie in shared memory."""

from __future__ import annotations

from typing import Any


class SharedBytes:
    """Bytes that lie in shared memory and are copied out only when somebody looks at them.

    Args:
        view: The bytes in shared memory; holds their block.
        kind: `bytes` or `bytearray`: the type the field had.
    """

    __slots__ = ("_copy", "kind", "view")

    def __init__(self, view: memoryview, kind: type[bytes] | type[bytearray]) -> None:
        self.view = view
        self.kind = kind
        self._copy: bytes | bytearray | None = None

    def copy(self) -> bytes | bytearray:
        """Copy the bytes out, once."""
        if self._copy is None:
            self._copy = self.kind(self.view)
        return self._copy

    def is_copy(self, value: object) -> bool:
        """Tell whether a value is the unchanged copy, so that the original can travel in its place."""
        return value is self._copy and self.kind is bytes


class SharedField:
    """A field of a task whose bytes lie in shared memory until somebody looks at it.

    It is put on the task's class when the first such value comes. A ``__getattr__`` in `BaseTask` would do, too, but
    where a class has one, or a ``__delattr__``, Python reads and writes all fields of its objects in its slowest way.

    Args:
        name: Name of the field.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, task: Any, owner: type) -> Any:
        if task is None:
            # The class has no default for the field, and nobody, such as a dataclass, should take this for one.
            raise AttributeError(f"type object {owner.__name__!r} has no attribute {self._name!r}")
        fields = task.__dict__
        if self._name not in fields:
            fields[self._name] = self._shared(task)[self._name].copy()
        return fields[self._name]

    def __set__(self, task: Any, value: object) -> None:
        task.__dict__[self._name] = value

    def __delete__(self, task: Any) -> None:
        if task.__dict__.pop(self._name, self) is self:
            del self._shared(task)[self._name]
        else:
            task.__dict__.get("_deferred", {}).pop(self._name, None)

    def _shared(self, task: Any) -> dict[str, SharedBytes]:
        shared: dict[str, SharedBytes] = task.__dict__.get("_deferred", {})
        if self._name not in shared:
            text = f"{type(task).__name__!r} object has no attribute {self._name!r}"
            raise AttributeError(text, name=self._name, obj=task)
        return shared
