"""When a worker that has died is replaced. Knows no clock: times are passed in."""

from __future__ import annotations

import random


class RestartPolicy:
    """Waits longer after each death that follows soon on the last.

    Args:
        base: Seconds before the first replacement, at most.
        cap: Seconds that no wait exceeds.
        healthy_after: Seconds of life after which earlier deaths are forgotten.
    """

    def __init__(self, base: float = 0.5, cap: float = 30.0, healthy_after: float = 60.0) -> None:
        self._base = base
        self._cap = cap
        self._healthy_after = healthy_after
        self._failures = 0

    def delay(self, lifetime: float) -> float:
        """Tell how long to wait before the replacement is started.

        The wait varies by half, so that workers that died together do not load their models together
        (Brooker, "Exponential Backoff And Jitter", 2015).

        Args:
            lifetime: Seconds the worker was ready before it died; 0 when it never was.
        """
        if lifetime >= self._healthy_after:
            self._failures = 0
        delay = min(self._cap, self._base * 2.0**self._failures)
        self._failures = min(self._failures + 1, 30)
        return delay * random.uniform(0.5, 1.0)
