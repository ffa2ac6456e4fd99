"""The integral over time of a number that changes in steps, such as worker seconds. Has no clock."""

from __future__ import annotations


class Integral:
    """Adds up a level over time, from level 0 on.

    Any thread may ask for the total; one changes the level.
    """

    def __init__(self) -> None:
        self._state = 0.0, 0.0, 0.0  # total, level, since when; replaced as a whole

    def set(self, level: float, now: float) -> None:
        """Change the level.

        Args:
            level: The new one.
            now: The time.
        """
        self._state = self.total(now), level, now

    def total(self, now: float) -> float:
        """Return the integral up to ``now``."""
        total, level, since = self._state
        return total + level * (now - since)
