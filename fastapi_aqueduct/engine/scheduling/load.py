"""The load of a step: how much of the time of its workers it uses."""

from __future__ import annotations

import threading
from collections import deque

from ..statistics import StepLoad
from ..workers.pool import Pool

SPACING = 1.0
"""Seconds at least between two samples."""


class Load:
    """Measures which share of their time the workers of a step are busy.

    A worker is busy during the calls of a plain handler. Where calls run side by side, it is busy by the share of its
    places that are taken. The busy share covers the time since the oldest sample in the window; each call of `read` may
    add a sample.

    Args:
        pool: The workers of the step.
        window: Seconds over which the share is taken, if it is read that often.
    """

    def __init__(self, pool: Pool, window: float) -> None:
        self._pool = pool
        self._window = window
        self._busy_time = 0.0
        self._samples = deque([(0.0, 0.0, 0.0)])  # time, busy time, ready time
        self._lock = threading.Lock()  # any thread may read

    def read(self, handle_time: float, now: float) -> StepLoad:
        """Return the load.

        Args:
            handle_time: Seconds of all calls that have ended.
            now: The time on the clock of ``time.monotonic``.
        """
        pool = self._pool
        ready_time = pool.ready_time(now)
        busy_time = pool.occupied_time(now) if pool.step.places else handle_time + pool.unanswered_time(now)
        with self._lock:
            # A call under way is timed here. When it has ended, its worker reports its time, which may be a little
            # less.
            busy_time = self._busy_time = max(self._busy_time, busy_time)
            samples = self._samples
            while len(samples) > 1 and samples[1][0] <= now - self._window:
                samples.popleft()
            _, busy_before, ready_before = samples[0]
            if now - samples[-1][0] >= SPACING:
                samples.append((now, busy_time, ready_time))
        available = ready_time - ready_before
        share = min(1.0, (busy_time - busy_before) / available) if available > 0 else 0.0
        return StepLoad(busy_time, ready_time, share)
