"""A place for one worker; the processes in it come and go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..system.process_memory import private_memory
from .handle import WorkerHandle
from .recycling import Wear
from .restart import RestartPolicy

MEMORY_INTERVAL = 1.0
"""Seconds at least between two looks at the memory of one worker."""


@dataclass(eq=False)
class Slot:
    """A place for one worker of a step, and a region of the arena that goes with it.

    Attributes:
        step: Index of the step.
        region: The number of the region its worker allocates in.
        policy: When a dead worker is replaced.
        worker: The worker now in it.
        replaces: The worn worker that goes when the one in this slot is ready.
        restart: The replacement that is waited for.
        age: Looks at the worker when it has reached its age.
        wear: When the worker now in it is worn.
        looked_at: When its memory was looked at last.
    """

    step: int
    region: int
    policy: RestartPolicy
    worker: WorkerHandle | None = None
    replaces: WorkerHandle | None = None
    restart: asyncio.TimerHandle | None = None
    age: asyncio.TimerHandle | None = None
    wear: Wear | None = None
    looked_at: float = 0.0

    @property
    def is_free(self) -> bool:
        """Whether nobody is in it or about to be."""
        return self.worker is None and self.restart is None

    def cancel_timers(self) -> None:
        """Forget what was planned for the worker in it and for the next."""
        for timer in (self.restart, self.age):
            if timer is not None:
                timer.cancel()
        self.restart = self.age = None

    def wear_of(self, worker: WorkerHandle, now: float) -> str:
        """Say why its worker is worn; an empty string when it is not.

        Args:
            worker: The worker.
            now: The time on the clock of ``time.monotonic``.
        """
        assert self.wear is not None
        return self.wear.reason(worker.in_flight.handled, now - worker.ready_at, self._growth(self.wear, worker, now))

    def _growth(self, wear: Wear, worker: WorkerHandle, now: float) -> int:
        if not wear.watches_memory or not worker.in_flight.handled or now - self.looked_at < MEMORY_INTERVAL:
            return 0
        self.looked_at = now
        memory = private_memory(worker.pid)
        if memory is None:
            return 0
        if worker.base_memory is None:
            worker.base_memory = memory
        return memory - worker.base_memory
