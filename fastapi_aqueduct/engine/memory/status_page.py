"""The status page: a few words that each process writes for the others to read, also after its death."""

from __future__ import annotations

import struct

from .layout import STATUS_SIZE, Layout

_WORD = struct.Struct("Q")
_TIME = struct.Struct("d")
_CALL = struct.Struct("Qd")


class StatusPage:
    """The status of the owner of each region: the memory it uses, the task it works on, and since when.

    Each word is written by its owner alone and is aligned, so a reader sees the old value or the new one.

    Args:
        memory: The shared memory, writable.
        layout: The division of the shared memory.
        region: The region of this process.

    Attributes:
        usages: The words of `usage`, one for each region.
    """

    def __init__(self, memory: memoryview, layout: Layout, region: int) -> None:
        self._memory = memory
        self._own = region * STATUS_SIZE
        self.usages = memory[: layout.regions * STATUS_SIZE].cast("Q")[:: STATUS_SIZE // _WORD.size]

    def usage(self) -> int:
        """Return the bytes of memory that all processes use: in blocks, and in free pages that they keep warm."""
        return sum(self.usages)

    def publish_usage(self, size: int) -> None:
        """Publish the bytes of memory that this process uses."""
        _WORD.pack_into(self._memory, self._own, size)

    def note_call(self, task: int, started_at: float) -> None:
        """Note that a call of the handler begins in this process.

        Args:
            task: Id of the first task of the call.
            started_at: The time on the clock of ``time.monotonic``.
        """
        _CALL.pack_into(self._memory, self._own + _WORD.size, task, started_at)

    def move_start(self, started_at: float) -> None:
        """Move the beginning of the present call.

        Args:
            started_at: The time on the clock of ``time.monotonic``; infinity while the call waits for the API process,
                so that it does not count as hanging.
        """
        _TIME.pack_into(self._memory, self._own + 2 * _WORD.size, started_at)

    def note_check(self, time: float) -> None:
        """Note that a check of the handler begins or ends in this process.

        Args:
            time: The time on the clock of ``time.monotonic``; negative when it ends.
        """
        _TIME.pack_into(self._memory, self._own + 3 * _WORD.size, time)

    def check_of(self, region: int) -> float:
        """Return when the check began that runs in the owner of a region.

        One word says both: a reader sees no moment between a check and what follows.

        Returns:
            The time; while no check runs, the time at which the last one ended as a negative number, or 0.
        """
        time: float = _TIME.unpack_from(self._memory, region * STATUS_SIZE + 24)[0]
        return time

    def task_of(self, region: int) -> int:
        """Return the id of the first task of the last call in the owner of a region; 0 if there was no call."""
        number: int = _WORD.unpack_from(self._memory, region * STATUS_SIZE + 8)[0]
        return number

    def call_of(self, region: int) -> float:
        """Return the time at which the last call in the owner of a region began; 0 if there was no call."""
        started_at: float = _TIME.unpack_from(self._memory, region * STATUS_SIZE + 16)[0]
        return started_at

    def reset(self, region: int) -> None:
        """Clear what an earlier owner of a region noted about its calls."""
        start = region * STATUS_SIZE + 8
        self._memory[start : start + STATUS_SIZE - 8] = bytes(STATUS_SIZE - 8)
