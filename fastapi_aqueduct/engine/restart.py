"""When a worker that has died is replaced, and when that is given up. Knows no clock: times are passed in."""

from __future__ import annotations

import random
from collections import deque

MAX_DEATHS = 5
"""Deaths in one window that are put up with, beside one of each further worker."""

WINDOW = 300.0
"""Seconds of the window at least; it is longer for models that load slowly."""

LOADS_PER_WINDOW = 5
"""Loads that fit in the window: with a load of a minute, five deaths take longer than five minutes."""

GIVE_UP_AFTER = 300.0
"""Seconds without a ready worker after which nobody expects one any more."""


class RestartPolicy:
    """Waits longer after each death that follows soon on the last; one for each place of a worker.

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

    def longest_delay(self) -> float:
        """Tell how long to wait when the budget of the step is spent."""
        return self._cap * random.uniform(0.5, 1.0)


class RestartBudget:
    """Tells a step that is unlucky from one that is broken; one for each step.

    Too many deaths in the window and the step counts as broken: it is reported as not ready while replacements go on
    at the longest interval. Without a ready worker for too long, it counts as given up, and whoever watches the
    server should restart it.

    Args:
        now: The time, in seconds on a clock that never goes back.
        workers: How many workers the step should have. All of them may die at once for one reason, such as want of
            memory.
    """

    def __init__(self, now: float, workers: int = 1) -> None:
        self._most = MAX_DEATHS + workers - 1
        self._deaths: deque[float] = deque()
        self._window = WINDOW
        self._unready_since: float | None = now

    def note_death(self, now: float) -> None:
        """Count a worker that died unasked."""
        self._deaths.append(now)

    def note_load(self, seconds: float) -> None:
        """Take in how long a worker took to become ready."""
        self._window = max(WINDOW, LOADS_PER_WINDOW * seconds)

    def note_ready(self, now: float, is_ready: bool) -> None:
        """Take in whether the step has a ready worker now."""
        if is_ready:
            self._unready_since = None
        elif self._unready_since is None:
            self._unready_since = now

    def is_spent(self, now: float) -> bool:
        """Tell whether the step counts as broken."""
        while self._deaths and self._deaths[0] <= now - self._window:
            self._deaths.popleft()
        return len(self._deaths) > self._most

    def is_given_up(self, now: float) -> bool:
        """Tell whether the step has had no ready worker for too long."""
        return self._unready_since is not None and now - self._unready_since >= GIVE_UP_AFTER
