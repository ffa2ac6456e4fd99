"""The times of the steps that a task has visited, as bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from ...reports import RawStep
from ..wire.frames import ProtocolError

_RECORD = struct.Struct("<HIdddfIQI")


def pack_records(records: Iterable[RawStep], indices: Mapping[str, int]) -> bytes:
    """Return the records of a task as bytes.

    Args:
        records: The records.
        indices: The index of each step by its name.
    """
    return b"".join([_RECORD.pack(indices[record[0]], *record[1:]) for record in records])


def unpack_records(data: bytes, names: Sequence[str]) -> tuple[RawStep, ...]:
    """Read the records of a task.

    Args:
        data: From `pack_records`.
        names: The names of the steps.

    Raises:
        ProtocolError: They are cut off, or name no step.
    """
    try:
        return tuple([(names[index], *rest) for index, *rest in _RECORD.iter_unpack(data)])
    except (struct.error, IndexError) as exc:
        raise ProtocolError(f"malformed records of steps: {exc}") from exc
