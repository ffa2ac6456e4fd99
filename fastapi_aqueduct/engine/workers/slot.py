"""A place for one worker after the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from .handle import WorkerHandle
from .restart import RestartPolicy
from .spec import WorkerSpec
from .wear import Wear


@dataclass(eq=False)
class Slot:
    """A place for one worker of a step, with a region of the shared memory.

    Attributes:
        spec: What its worker runs.
        place: Index of the slot in its pool.
        region: The number of the region its worker allocates in.
        policy: When a dead worker is replaced.
        worker: The worker now in it.
        replaces: The worn worker that leaves when the one in this slot is ready.
        restart: The timer for the next launch.
        age: The timer for the end of the worker's `max_age`.
        wear: When the worker now in it is worn.
    """

    spec: WorkerSpec
    place: int
    region: int
    policy: RestartPolicy
    worker: WorkerHandle | None = None
    replaces: WorkerHandle | None = None
    restart: asyncio.TimerHandle | None = None
    age: asyncio.TimerHandle | None = None
    wear: Wear | None = None

    @property
    def is_free(self) -> bool:
        """Whether there is no worker in it and no timer for one."""
        return self.worker is None and self.restart is None

    def cancel_timers(self) -> None:
        """Cancel the timers for its worker and for the next launch."""
        for timer in (self.restart, self.age):
            if timer is not None:
                timer.cancel()
        self.restart = self.age = None
