"""Pickled messages between an API process and a pipeline process, which are checked when they arrive."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..wire.frames import ProtocolError

T = TypeVar("T")


def pack_message(message: object) -> bytes:
    """Return the payload of a frame with a message.

    Args:
        message: A named tuple or a data class.
    """
    return pickle.dumps(message, 5)


def unpack_message(payload: bytes, *kinds: type[T]) -> T:
    """Read the payload of a frame with a message.

    What is read now is used later, where an error would be that of another caller: so its fields are checked, too.

    Args:
        payload: The payload.
        *kinds: What the message may be.

    Raises:
        ProtocolError: It is none of these.
    """
    try:
        message = pickle.loads(payload)
    except Exception as exc:
        raise ProtocolError(f"malformed {kinds[0].__name__}: {exc}") from exc
    if not isinstance(message, kinds):
        raise ProtocolError(f"a {type(message).__name__} in the place of a {kinds[0].__name__}")
    check_fields(message)
    return message


def check_fields(message: object) -> None:
    """Check that the fields of a message are what its class declares.

    Args:
        message: A named tuple or a data class.

    Raises:
        ProtocolError: One is not.
    """
    kind: Any = type(message)
    for name, hint in _fields(kind):
        if not _fits(getattr(message, name, None), hint):
            raise ProtocolError(f"{name} of a {kind.__name__} has another type")


@functools.cache
def _fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(get_type_hints(kind).items()) if is_dataclass(kind) or hasattr(kind, "_fields") else ()


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is what an annotation says. Of a data class within a message only the class is checked."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return any(_fits(value, argument) for argument in arguments)
    if kind is None:
        if hint is Any:
            return True
        if not isinstance(value, (int, float) if hint is float else hint):
            return False
        return is_dataclass(hint) or all(_fits(getattr(value, name), field) for name, field in _fields(hint))
    if not isinstance(value, kind):
        return False
    if issubclass(kind, Mapping):
        return all(_fits(key, arguments[0]) and _fits(item, arguments[1]) for key, item in value.items())
    if kind is tuple and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    return all(_fits(item, arguments[0]) for item in value)
