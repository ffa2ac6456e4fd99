"""What a task may be, and a value that it shares, because it can be put together again in another process."""

from __future__ import annotations

import sys
from typing import Any

from .exceptions import ConfigurationError, NotShareable

_REDUCERS = ("__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__")


def check_class(cls: type, root: type) -> None:
    """Refuse a task class of which something would be lost: tasks travel as their fields, or as ``__getstate__`` says.

    Args:
        cls: The class.
        root: The class that all tasks have in common.

    Raises:
        ConfigurationError: The class, or one that it is derived from, has ``__slots__`` or is reduced in its own way.
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
                    f"{cls.__qualname__}: a task cannot have {name}{owner}: its fields travel, and the caller's own "
                    "task gets them back; say with __getstate__ and __setstate__ what travels"
                )


def check_shareable(where: str, value: Any) -> None:
    """Refuse a value that would not be the same in shared memory.

    Args:
        where: Class and field, for the message.
        value: What is to be shared.

    Raises:
        NotShareable: It is no array, `bytes` or `bytearray`, or carries more than its elements.
    """
    if type(value) in (bytes, bytearray):
        return
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray:
        what = "numpy arrays, bytes and bytearray can be shared, and no subclasses of them"
        raise NotShareable(f"{where} is of type {type(value).__qualname__}; {what}")
    if value.dtype.hasobject:
        raise NotShareable(f"{where} is an array of Python objects ({value.dtype}), which cannot be shared")
    if value.dtype.kind not in "mM":  # numpy exports no buffer of times; they are shared as numbers
        try:
            memoryview(value)
        except (ValueError, BufferError) as exc:
            raise NotShareable(f"{where} is an array of {value.dtype}, which cannot be shared: {exc}") from exc
