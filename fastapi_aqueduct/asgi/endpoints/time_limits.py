"""The time limits of an endpoint."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ...exceptions import ConfigurationError


@dataclass(frozen=True)
class TimeLimits:
    """The time limits of an endpoint.

    Attributes:
        first: Seconds in which a task must be finished; of a stream, in which its first item must come.
        item: Seconds in which each further item of a stream must come; None: as for the first.
        total: Seconds that a whole stream may take; None: any number.

    Raises:
        ConfigurationError: A limit of streams is not positive.
    """

    first: float
    item: float | None = None
    total: float | None = None

    def __post_init__(self) -> None:
        for name, seconds in (("item_timeout", self.item), ("total_timeout", self.total)):
            if seconds is not None and not (isinstance(seconds, (int, float)) and seconds > 0):
                raise ConfigurationError(f"{name} must be a positive number of seconds, got {seconds!r}")

    @property
    def are_for_streams(self) -> bool:
        """Whether there is a limit that only streams have."""
        return self.item is not None or self.total is not None

    def deadline(self) -> float | None:
        """Return when a stream that begins now must have ended, on the clock of the event loop; None: at no time."""
        return None if self.total is None else asyncio.get_running_loop().time() + self.total
