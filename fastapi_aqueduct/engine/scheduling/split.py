"""Which tasks go to a canary: a share of them, exactly."""

from __future__ import annotations

from ..statistics import WorkerState
from ..workers.handle import WorkerHandle
from ..workers.in_flight import PREFETCH


class Split:
    """Divides the tasks of a step between the workers that serve and a canary.

    Each batch goes to the side that keeps the number of the canary's tasks closer to its share of all (the error
    diffusion of Floyd and Steinberg, in one dimension), so it is never further from that than half a batch. No task
    waits for a canary: what it cannot get because it is busy goes to the others, and it gets as much more later.

    Args:
        share: Part of the tasks that the canary gets.

    Attributes:
        canary: The worker; None before it is ready for the first time.
    """

    def __init__(self, share: float) -> None:
        self.canary: WorkerHandle | None = None
        self._share = share
        self._given = 0
        self._all = 0

    def note(self, worker: WorkerHandle, tasks: int) -> None:
        """Count tasks that a worker gets; while the canary is not ready they do not count."""
        canary = self.canary
        if canary is not None and canary.state is WorkerState.READY:
            self._all += tasks
            if worker is canary:
                self._given += tasks

    def idle_canary(self) -> WorkerHandle | None:
        """Return the canary if the next task is to be its own, and it may have more in hand; as `Stage.idle_worker`."""
        canary = self._due_canary(1)
        return canary if canary is not None and canary.in_flight.calls < canary.in_flight.prefetch else None

    def choose(self, batch: int, is_full: bool, may_wait: bool, now: float) -> tuple[WorkerHandle | None, int]:
        """Return the canary if the next batch is to be its own, and it is free or about to be; as `Stage.free_worker`.

        Args:
            batch: Number of tasks in the batch.
            is_full: Whether these are as many as a call can have.
            may_wait: Whether the batch may wait at a worker that has others in hand.
            now: The time on the clock of ``time.monotonic``.
        """
        canary = self._due_canary(batch)
        if canary is None or (canary.in_flight.calls and not may_wait):
            return None, 0
        in_flight = canary.in_flight
        if in_flight.calls >= in_flight.prefetch:
            return (canary, 1) if is_full and in_flight.free_at() - PREFETCH <= now else (None, 0)
        lead = self._share * self._all - self._given + batch / 2
        calls = int(lead / (batch * (1 - self._share))) if may_wait else 1
        return canary, max(1, min(calls, in_flight.prefetch - in_flight.calls, in_flight.calls_per_batch))

    def limit(self, calls: int, batch: int) -> int:
        """Return for how many calls a worker that serves may get tasks before it is the canary's turn.

        Args:
            calls: For how many it would get them without a canary.
            batch: Number of tasks of a call.
        """
        canary = self.canary
        if calls < 2 or canary is None or canary.state is not WorkerState.READY or self._is_due(batch):
            return calls
        lead = self._given - self._share * self._all + batch / 2
        return max(1, min(calls, int(lead / (batch * self._share))))

    def _due_canary(self, batch: int) -> WorkerHandle | None:
        canary = self.canary
        is_due = canary is not None and canary.state is WorkerState.READY and self._is_due(batch)
        return canary if is_due else None

    def _is_due(self, batch: int) -> bool:
        return self._given + batch / 2 <= self._share * (self._all + batch)
