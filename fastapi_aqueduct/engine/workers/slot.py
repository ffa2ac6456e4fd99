"""A place for one worker after the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..statistics import WearKind, WorkerRole
from .handle import WorkerHandle
from .restart import RestartPolicy
from .spec import WorkerSpec
from .wear import Wear


@dataclass(eq=False)
class Slot:
    """A place for one worker of a step, with a region of the shared memory.

    Attributes:
        spec: What its worker runs; of an empty slot what the last one ran.
        region: The number of the region its worker allocates in.
        policy: When a dead worker is replaced.
        worker: The worker now in it.
        replaces: The worker that leaves when the one in this slot is ready.
        wear_kind: How that one is worn; None if it runs another version.
        restart: The timer for the next launch.
        age: The timer for the end of the worker's `max_age`.
        wear: When the worker now in it is worn.
        role: What its worker is for. A slot that a trial has taken is not free while the worker is away.
    """

    spec: WorkerSpec
    region: int
    policy: RestartPolicy
    worker: WorkerHandle | None = None
    replaces: WorkerHandle | None = None
    wear_kind: WearKind | None = None
    restart: asyncio.TimerHandle | None = None
    age: asyncio.TimerHandle | None = None
    wear: Wear | None = None
    role: WorkerRole = WorkerRole.SERVING

    @property
    def is_free(self) -> bool:
        """Whether there is no worker in it, no timer for one, and no trial that has taken it."""
        return self.worker is None and self.restart is None and self.serves

    @property
    def serves(self) -> bool:
        """Whether its worker is one of those that the step should have."""
        return self.role is WorkerRole.SERVING

    def cancel_timers(self) -> None:
        """Cancel the timers for its worker and for the next launch."""
        for timer in (self.restart, self.age):
            if timer is not None:
                timer.cancel()
        self.restart = self.age = None
