"""What a worker reports of its batch ceiling."""

from __future__ import annotations

import struct
from typing import NamedTuple

from .frames import ProtocolError

_HEAD = struct.Struct("<II")

LONGEST_REASON = 300
"""Bytes of the reason; the rest is cut off."""


class CeilingReport(NamedTuple):
    """The batch ceiling of a worker has changed.

    Attributes:
        most: The most tasks that its calls get; 0: as many as the step allows.
        size: The number of tasks with which a call has run out of memory; 0 if the ceiling has risen.
        reason: The exception of that call, in words.
    """

    most: int
    size: int = 0
    reason: str = ""

    def pack(self) -> bytes:
        """Return the payload of a frame of kind CEILING."""
        reason = self.reason.encode("utf-8", "backslashreplace")[:LONGEST_REASON]
        return _HEAD.pack(self.most, self.size) + reason

    @staticmethod
    def unpack(payload: bytes) -> CeilingReport:
        """Read the payload of a frame of kind CEILING.

        Raises:
            ProtocolError: It is cut off.
        """
        if len(payload) < _HEAD.size:
            raise ProtocolError(f"the report of a batch ceiling cannot be {len(payload)} bytes long")
        most, size = _HEAD.unpack_from(payload)
        return CeilingReport(most, size, payload[_HEAD.size :].decode("utf-8", "replace"))
