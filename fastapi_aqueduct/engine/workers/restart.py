"""When a dead worker is replaced, and when a step counts as broken. Without a clock: times are arguments."""

from __future__ import annotations

import random
from collections import deque
from typing import NamedTuple

from ..timing import DEFAULT_TIMING, Timing

LOADS_PER_WINDOW = 5
"""Loads that fit into the window: with a load of a minute, five deaths take longer than five minutes."""


class Life(NamedTuple):
    """The life of a worker that was ready and has died.

    Attributes:
        age: Seconds since its launch.
        lifetime: Seconds since it was ready.
        load: Seconds that workers of its step need to load.
        has_answered: Whether it has answered a task.
        is_repeated: Whether a task in its hands had killed another worker before.
    """

    age: float
    lifetime: float
    load: float
    has_answered: bool
    is_repeated: bool


class RestartPolicy:
    """Decides how long to wait before the next launch; one for each slot.

    After a failed launch, or a worker that died before it was ready, the next one will probably fail, too: each doubles
    the wait. After a worker that was ready, the next one will probably become ready, so a step that loads quickly gets
    it at once; but two launches are at least half a second apart, and a few seconds while no worker in this slot
    answers a task. Where a load is long, and thus expensive, early deaths double the wait as well.

    Args:
        timing: The times of the engine.
    """

    def __init__(self, timing: Timing = DEFAULT_TIMING) -> None:
        self._timing = timing
        self._failures = 0
        self._deaths = 0

    def after_failure(self) -> float:
        """Return the seconds to wait after a launch that failed, or a death before the worker was ready."""
        wait = self._series(self._failures)
        self._failures += 1
        return wait

    def after_death(self, life: Life) -> float:
        """Return the seconds to wait after the death of a worker that was ready.

        Args:
            life: The life of the worker.
        """
        self._failures = 0
        is_quick = life.load < self._timing.quick_load
        if life.lifetime >= (self._timing.quick_load if is_quick else self._timing.healthy_after):
            self._deaths = 0
        if is_quick and life.has_answered:
            self._deaths = 0
        deaths = self._deaths
        self._deaths += not life.is_repeated
        if not is_quick:
            return self._series(deaths)
        spacing = min(self._timing.first_wait * 2.0 ** min(deaths, 30), self._timing.longest_spacing)
        return max(0.0, spacing - life.age)

    def longest_wait(self) -> float:
        """Return the seconds to wait when the step is broken."""
        return self._timing.longest_wait * random.uniform(0.5, 1.0)

    def _series(self, count: int) -> float:
        # Random by up to half, so that workers that died together do not load their models together
        # (Brooker, "Exponential Backoff And Jitter", 2015).
        wait = min(self._timing.longest_wait, self._timing.first_wait * 2.0 ** min(count, 30))
        return wait * random.uniform(0.5, 1.0)


class RestartBudget:
    """Distinguishes an unlucky step from a broken one; one for each step.

    After too many deaths in the window, the step counts as broken: it is reported as not ready, and replacements follow
    at the longest interval. Without a ready worker for too long, it counts as given up, and the supervisor of the
    server should restart that.

    Args:
        now: The time in seconds on a monotonic clock.
        workers: How many workers the step should have. All of them may die at once for one reason, such as too little
            memory.
        timing: The times of the engine, and how many deaths fit into the window.
    """

    def __init__(self, now: float, workers: int = 1, timing: Timing = DEFAULT_TIMING) -> None:
        self._timing = timing
        self._most = timing.max_deaths + workers - 1
        self._deaths: deque[float] = deque()
        self._failures: deque[float] = deque()
        self._window = timing.death_window
        self._unready_since: float | None = now

    def note_death(self, now: float) -> None:
        """Count the death of a ready worker whose load is expensive."""
        self._deaths.append(now)

    def note_failure(self, now: float) -> None:
        """Count a failed launch, or a death before the worker was ready."""
        self._failures.append(now)

    def note_load(self, seconds: float) -> None:
        """Note how long a worker took to become ready, and clear the failures: loading works again."""
        self._window = max(self._timing.death_window, LOADS_PER_WINDOW * seconds)
        self._failures.clear()

    def note_ready(self, now: float, is_ready: bool) -> None:
        """Note whether the step has a ready worker now."""
        if is_ready:
            self._unready_since = None
        elif self._unready_since is None:
            self._unready_since = now

    def is_spent(self, now: float) -> bool:
        """Tell whether the step counts as broken."""
        for times in (self._deaths, self._failures):
            while times and times[0] <= now - self._window:
                times.popleft()
        return len(self._deaths) + len(self._failures) > self._most

    def is_given_up(self, now: float) -> bool:
        """Tell whether the step has had no ready worker for too long."""
        return self._unready_since is not None and now - self._unready_since >= self._timing.give_up_after
