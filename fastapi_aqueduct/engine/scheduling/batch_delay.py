"""The batch delay: how long a worker may stay idle so that its next batch gets one task more. Has no clock.

Whether a wait pays depends on the arrivals. Tasks that arrive at random are not worth a wait: later ones make up the
next batch anyway, and it is best to take the tasks that are there as soon as a worker is free (the rule that Inoue
studies in "Queueing analysis of GPU-based inference servers with dynamic batching", Performance Evaluation 147, 2021).
Callers that send their next task when they have an answer come back together, and it pays to wait for the last of them:
else one part of them always waits for the batch of the other. Which of the two it is has to be learned.

The question is that of delayed acknowledgements in TCP: go now at a fixed price, or let the tasks that are there wait
and share the price with one more. Waiting until it has cost as much as it can gain is never worse than twice the best
(Dooly, Goldman and Scott, "On-line analysis of the TCP acknowledgment delay problem", Journal of the ACM 48, 2001).
That is the limit here. Up to it one can do better by looking at what happened in the same situation before, as in
"Improving online algorithms via ML predictions" (Purohit, Svitkina and Kumar, NeurIPS 2018). A situation is the number
of tasks that wait, because the best rules for batches depend on it (Deb and Serfozo, "Optimal control of batch service
queues", Advances in Applied Probability 5, 1973), and whether others are known to be on the way.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

LEAST_WAIT = 0.001
"""Seconds that a wait without an arrival takes at least, since event loops round their timers up."""

WINDOW = 16
"""How many of its last occurrences a situation is judged by."""

DOUBT = 4
"""Waits without an arrival that are assumed beside those seen: a few successes prove nothing."""

MARGIN = 1.5
"""Factor on the longest wait that has paid: the next arrival may be a little later."""

SMOOTHING = 1 / 8
"""Weight of the latest value in a running average of what changes quickly."""

MEMORY = 1 / 32
"""Weight of the latest call in what is known of a handler."""

SPREAD = 0.1
"""Variance of batch sizes below which nothing can be said about the part of a single task in the time of a call."""


class CallTime:
    """The time of one call of a handler: a fixed part and one for each task, as far as the calls so far tell.

    Attributes:
        fixed: Seconds that a call takes however many tasks it gets. All of it while batches have all had the same size.
    """

    def __init__(self) -> None:
        self.fixed = 0.0
        self._calls = 0
        self.mean = 0.0
        self._size = self._square = self._product = 0.0

    def note(self, size: int, duration: float) -> None:
        """Note the size and the seconds of a call."""
        self._calls += 1
        weight = max(MEMORY, 1 / self._calls)
        self._size += (size - self._size) * weight
        self.mean += (duration - self.mean) * weight
        self._square += (size * size - self._square) * weight
        self._product += (size * duration - self._product) * weight
        variance = self._square - self._size * self._size
        covariance = self._product - self._size * self.mean
        slope = max(0.0, covariance / (variance + SPREAD))
        self.fixed = max(0.0, self.mean - slope * self._size)


class BatchDelay:
    """Decides when a batch that is not full goes to a worker that is idle.

    Args:
        batch_size: The most tasks in a batch.

    Attributes:
        is_worthwhile: Whether calls of the handler have a fixed part that is worth sharing. While not, nothing but
            `note_call` needs to be called.
    """

    def __init__(self, batch_size: int) -> None:
        self.is_worthwhile = False
        self._batch_size = batch_size
        self._call_time = CallTime()
        # Seconds to the next arrival, by the number of tasks that waited and whether others were known to be on the
        # way. Known whether a batch waited for the arrival or not.
        self._gaps: dict[tuple[int, bool], deque[float]] = {}
        self._situation: tuple[int, bool] | None = None
        self._count = 0
        self._since = 0.0
        self._due_at = 0.0
        self._idle_since: float | None = None
        self._behind = 0.0
        self._early = self._late = 0
        self._half_time = 0.0

    def note_call(self, size: int, duration: float) -> None:
        """Note the size and the seconds of a call of the handler."""
        if self.is_worthwhile or duration > LEAST_WAIT:
            self._call_time.note(size, duration)
            self.is_worthwhile = self._batch_size > 1 and self._call_time.fixed > LEAST_WAIT

    def note_busy(self, count: int, now: float) -> None:
        """Note that ``count`` tasks wait and no worker is idle."""
        self._note_arrival(count, now)
        if now < self._half_time:
            self._early = count
        else:
            self._late = count - self._early

    def note_sent(self, left: int, now: float) -> None:
        """Note that a batch was sent and ``left`` tasks still wait."""
        self._count = self._early = left
        self._behind += (2 * max(0, self._late) - self._behind) * SMOOTHING
        self._late = 0
        self._half_time = now + self._call_time.mean / 2
        self._idle_since = None

    def due_at(self, count: int, is_expected: bool, share: float, now: float) -> float:
        """Return when the next batch should go to an idle worker if no task arrives before; the past means now.

        Args:
            count: The tasks that wait; one at least.
            is_expected: Whether others are known to be on the way: in an upload, or in a step before.
            share: The part of the fixed time of a call that a task saves by arriving in time. 0 when another worker is
                idle, else one divided by the number of workers: the next is idle after that part of a call.
            now: The time.
        """
        self._note_arrival(count, now)
        if self._idle_since is None:
            self._idle_since = now
        if self._situation is None or count < self._count:
            self._count = count
            self._since = self._due_at = now
            if count < self._batch_size:
                self._situation = (count, is_expected)
                gain = self._call_time.fixed * share
                # The tasks behind this batch lose what it loses.
                wait = best_wait(self._gaps.get(self._situation, ()), gain, count + self._behind)
                self._due_at = min(now + wait, self._idle_since + gain)
        return self._due_at

    @property
    def longest_wait(self) -> float:
        """Seconds after which a wait pays in no case."""
        return self._call_time.fixed

    def fork(self) -> BatchDelay:
        """Return one for other tasks, which learns from the same calls and arrivals, and adds to them."""
        delay = BatchDelay(self._batch_size)
        delay._call_time = self._call_time
        delay._gaps = self._gaps
        return delay

    def give_up(self) -> None:
        """Note that the next arrival is not waited for any more."""
        if self._situation is not None:
            self._gaps.setdefault(self._situation, deque(maxlen=WINDOW)).append(math.inf)
            self._situation = None

    def _note_arrival(self, count: int, now: float) -> None:
        if self._situation is not None and count > self._count:
            self._gaps.setdefault(self._situation, deque(maxlen=WINDOW)).append(now - self._since)
            self._situation = None


def best_wait(gaps: Iterable[float], gain: float, cost: float) -> float:
    """Return how long to wait for the next arrival: as long as would have been best so far.

    Args:
        gaps: Seconds until the next arrival, in the same situation before.
        gain: Seconds that a task saves by arriving in time.
        cost: Seconds that a second of waiting costs: the number of tasks that it delays.

    Returns:
        Seconds; never so many that they cost more than can be gained.
    """
    limit = gain / cost
    chosen = best = won = 0.0
    ordered = sorted(gaps)
    futile = len(ordered) + DOUBT
    for gap in ordered:
        if gap >= limit:
            break
        wait = min(limit, max(gap * MARGIN, LEAST_WAIT))
        won += gain - cost * gap
        futile -= 1
        balance = won - futile * cost * wait
        if balance > best:
            chosen, best = wait, balance
    return chosen
