"""The pace of a handler: whether what one turn sends may wait for the next turn."""

from __future__ import annotations

from ..wire.frames import FRAME_BUDGET

_LONG_TURN = 16 * FRAME_BUDGET
"""Seconds of a turn that is forgotten after about 40 short ones."""


class Pace:
    """Measures the turns of a handler: from one ``yield`` to the next, or rounds.

    What cheap turns send within `FRAME_BUDGET` travels in one frame. But an item does not wait for a turn that may take
    long: the slowest turn counts, and is forgotten slowly.
    """

    __slots__ = ("_slowest",)

    def __init__(self) -> None:
        self._slowest = 2 * FRAME_BUDGET  # unknown at first, so the first items leave at once

    @property
    def is_slow(self) -> bool:
        """Whether a turn may take longer than what travels in one frame."""
        return self._slowest > FRAME_BUDGET

    def note(self, duration: float) -> None:
        """Note the duration of a turn, in seconds."""
        self._slowest = max(duration, min(self._slowest, _LONG_TURN) * 15 / 16)
