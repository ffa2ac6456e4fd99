"""What of an object cannot be pickled, and what of it is large."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

MAX_DEPTH = 20


def find_unpicklable(name: str, value: object) -> str:
    """Describe the innermost part of an object that cannot be pickled; empty if all of it can.

    Args:
        name: What the description begins with, such as ``"Classify"`` for ``"Classify.client.lock"``.
        value: The object.
    """
    error = _error(value)
    if error is None:
        return ""
    for _ in range(MAX_DEPTH):
        for path, part in _parts(name, value):
            found = _error(part)
            if found is not None:
                name, value, error = path, part, found
                break
        else:
            break
    return f"{name} of type {type(value).__qualname__} ({error})"


def largest_part(name: str, value: object) -> str:
    """Describe the attribute of an object that makes its pickle large; empty if it has none.

    Args:
        name: As for `find_unpicklable`.
        value: The object.
    """
    sizes = {path: (len(pickle.dumps(part, 5)), part) for path, part in _parts(name, value) if _error(part) is None}
    if not sizes:
        return ""
    path, (_, part) = max(sizes.items(), key=lambda item: item[1][0])
    return f"{path} of type {type(part).__qualname__}"


def _parts(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{name}[{key!r}]", part
    elif isinstance(value, list | tuple | set | frozenset):
        for index, part in enumerate(value):
            yield f"{name}[{index}]", part
    else:
        state: dict[str, Any] = getattr(value, "__dict__", {})
        if not isinstance(value, type):
            for key, part in state.items():
                yield f"{name}.{key}", part


def _error(value: object) -> str | None:
    try:
        pickle.dumps(value, 5)
    except Exception as exc:  # a user's object may raise any error
        return str(exc) or type(exc).__name__
    return None
