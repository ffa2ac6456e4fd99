"""A timer for code of handlers, under the names that it has in the package aqueduct."""

from __future__ import annotations

import time
from typing import Self

from ..replaced import explain_names

explain_names(__name__)


class Timer:
    """Measures the time of a block: ``with timeit() as timer: ...``, then ``timer.seconds``.

    Attributes:
        precision: Decimal places of `seconds`.
    """

    precision = 5

    def __init__(self) -> None:
        self._started_at: float | None = None
        self._stopped_at: float | None = None

    def start(self) -> None:
        """Note the time at which the block begins."""
        self._started_at = time.monotonic()

    def stop(self) -> None:
        """Note the time at which the block ends."""
        self._stopped_at = time.monotonic()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def seconds(self) -> float | None:
        """The seconds from the start to the stop; None before both."""
        if self._started_at is None or self._stopped_at is None:
            return None
        return round(self._stopped_at - self._started_at, self.precision)


timeit = Timer
"""The name for a ``with`` statement."""
