"""A file of limited size in memory, for picklers of values of user code."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class BoundedStream:
    """A file that keeps what a pickler writes.

    Args:
        limit: The most bytes that it keeps.

    Attributes:
        parts: What was written.
    """

    def __init__(self, limit: int) -> None:
        self.parts: list[bytes] = []
        self._limit = limit
        self._size = 0

    def write(self, data: Buffer) -> None:
        """Keep bytes.

        Raises:
            PicklingError: They are too many.
        """
        with memoryview(data) as view:  # the buffer of a large array comes as it is
            self._size += view.nbytes
            if self._size > self._limit:
                raise pickle.PicklingError(f"the value takes more than {self._limit} bytes")
            self.parts.append(view.tobytes())
