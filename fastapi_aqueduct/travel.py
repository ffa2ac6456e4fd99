"""Checks that the class of a task, and a value that it shares, can be rebuilt in another process."""

from __future__ import annotations

import sys
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
