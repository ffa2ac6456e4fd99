"""A digest of what a request asks for, to tell a repetition from another request with the same Idempotency-Key."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic_core import to_json

from ...task import BaseTask


def fingerprint_of(task: BaseTask, names: frozenset[str], arguments: dict[str, Any]) -> bytes:
    """Return the digest of a task that was made from a request.

    Args:
        task: The task.
        names: Names of the parameters of its constructor.
        arguments: The arguments that are known beside it.
    """
    fields = {name: value for name, value in vars(task).items() if name in names}
    digest = hashlib.sha256()
    for name, value in sorted({**fields, **arguments}.items()):
        digest.update(f"{len(name)}:{name}".encode())
        _add(digest, value)
    return digest.digest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, (bytes, bytearray, memoryview)):
        content = memoryview(value).cast("B")
        digest.update(f"{len(content)}:".encode())
        digest.update(content)
    elif type(value) is list and any(isinstance(item, memoryview) for item in value):
        for item in value:
            _add(digest, item)
    elif isinstance(value, (set, frozenset)):  # another process has another order
        _add(digest, sorted(value, key=repr))
    else:
        # What pydantic cannot write counts by its type only: its text may have its address in it.
        text = to_json(value, fallback=_type_name, inf_nan_mode="strings", bytes_mode="base64")
        digest.update(f"{len(text)}:".encode())
        digest.update(text)


def _type_name(value: object) -> str:
    return type(value).__qualname__
