"""Checks of classes of tasks, functions, and shared values: whether they can be rebuilt in another process."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable
from typing import Any

from .exceptions import ConfigurationError, NotShareable

_REDUCERS = ("__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__")


def check_class(cls: type, root: type) -> None:
    """Refuse a class of tasks that would lose state: a task is sent as its fields, or as its ``__getstate__``.

    Args:
        cls: The class.
        root: The base class of all tasks.

    Raises:
        ConfigurationError: The class, or a base of it, has ``__slots__`` or a ``__reduce__`` of its own.
    """
    for base in cls.__mro__:
        if base is root or base is object:
            continue
        owner = "" if base is cls else f", as its base {base.__qualname__} has"
        slots = base.__dict__.get("__slots__", ())
        if {slots} - {""} if isinstance(slots, str) else {*slots} - {"__dict__", "__weakref__"}:
            raise ConfigurationError(
                f"{cls.__qualname__}: a task cannot have __slots__{owner}; its fields live in __dict__"
            )
        for name in _REDUCERS:
            if name in base.__dict__:
                raise ConfigurationError(
                    f"{cls.__qualname__}: a task cannot have {name}{owner}: its fields are sent, and are set in the "
                    "caller's own task; define __getstate__ and __setstate__ to choose what is sent"
                )


def check_field_names(cls: type, root: type) -> None:
    """Refuse a field without a default that has the name of a method: a dataclass would take the method as its default.

    One with a default replaces the method and is refused only where the method is needed, so that a new method of
    tasks does not break classes that have a field of its name.

    Args:
        cls: The class.
        root: The base class of all tasks.

    Raises:
        ConfigurationError: The field.
    """
    for name in _annotated_names(cls):
        hidden = root.__dict__.get(name)
        if name not in cls.__dict__ and (callable(hidden) or isinstance(hidden, property)):
            if inspect.getattr_static(cls, name) is hidden:
                raise ConfigurationError(
                    f"{cls.__qualname__}: a field cannot have the name `{name}`, which is that of "
                    f"{root.__name__}.{name}: rename it"
                )


def _annotated_names(cls: type) -> Iterable[str]:
    """Return the names that are annotated in a class itself; names in the annotations may be unknown."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        return get_annotations(cls, format=Format.FORWARDREF)
    return inspect.get_annotations(cls)


def local_function(function: Any) -> str:
    """Describe a function that no other process can import; empty for one that may be found.

    Args:
        function: The function, or a ``functools.partial`` of one.
    """
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", "")
    if name.endswith("<lambda>"):
        return "a lambda"
    return f"{name}, a function inside another one" if "<locals>" in name else ""


def check_shareable(where: str, value: Any) -> None:
    """Refuse a value that would not be the same in shared memory.

    Args:
        where: Class and field, for the message.
        value: The value.

    Raises:
        NotShareable: It is no array, `bytes` or `bytearray`, or carries more than its elements.
    """
    if type(value) in (bytes, bytearray):
        return
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray:
        what = "only numpy arrays, bytes and bytearray can be shared, but no subclasses of them"
        raise NotShareable(f"{where} is of type {type(value).__qualname__}; {what}")
    if value.dtype.hasobject:
        raise NotShareable(f"{where} is an array of Python objects ({value.dtype}), which cannot be shared")
    if value.dtype.kind not in "mM":  # numpy exports no buffer of times, which are shared as integers
        try:
            memoryview(value)
        except (ValueError, BufferError) as exc:
            raise NotShareable(f"{where} is an array of {value.dtype}, which cannot be shared: {exc}") from exc
