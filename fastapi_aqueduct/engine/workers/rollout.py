"""Rollout: the workers of a step are replaced by those of another version while it serves."""

from __future__ import annotations

from collections.abc import Callable

from ...exceptions import StartError
from ..statistics import WorkerState
from .change import Change
from .handle import WorkerHandle
from .pool import LEAVING, Pool
from .slot import Slot
from .spec import WorkerSpec


class Rollout(Change):
    """Replaces the workers of a pool, one after the other: the new one is ready before the old one leaves.

    The first new worker that is ready makes the new version the one that counts: what dies then comes back as that. If
    a new one cannot be started, the old version counts again, and those that are replaced already go back to it.

    A pool with more workers than it should have, such as one that has kept a canary, loses an old one for the first new
    one.

    Args:
        pool: The pool.
        spec: The new version.
        launch: Launches a worker of a version in a free slot of a pool.
        retire: Has a worker of a pool leave when it has answered its tasks.
        on_end: Called when the rollout has ended.
        is_in_place: Whether the old worker leaves before the new one is started.
    """

    def __init__(
        self,
        pool: Pool,
        spec: WorkerSpec,
        launch: Callable[[Pool, Slot, WorkerSpec], None],
        retire: Callable[[Pool, WorkerHandle], None],
        on_end: Callable[[Change], None],
        is_in_place: bool,
    ) -> None:
        super().__init__("replaced", on_end)
        self._pool = pool
        self._previous = pool.spec
        self._target = self._spec = spec
        self._launch = launch
        self._retire = retire
        self._is_in_place = is_in_place

    def advance(self) -> None:
        """Launch or retire the next worker when the one before is ready or gone."""
        pool, target = self._pool, self._target
        if self._is_in_place:
            pool.spec = target
        workers = [slot.worker for slot in pool.slots if slot.worker is not None]
        if any(self._is_new(worker) and worker.state is WorkerState.STARTING for worker in workers):
            return
        if any(worker.state in LEAVING for worker in workers):
            return
        old = [worker for worker in workers if not self._is_new(worker)]
        ready = [worker for worker in old if worker.state is WorkerState.READY]
        if ready:
            numbers = [worker.index for worker in workers]
            self._swap(next((worker for worker in ready if numbers.count(worker.index) > 1), ready[0]))
        elif old:
            return  # they are being started
        elif surplus := pool.surplus():
            self._retire(pool, surplus[0])
        elif pool.spec is target or not pool.size:
            pool.spec = target
            self._end()
        else:
            self._launch_first()

    def go_back(self) -> None:
        """Make the version before the one that counts."""
        self._target = self._pool.spec = self._previous
        for slot in self._pool.slots:
            if slot.replaces is not None and slot.worker is None and slot.restart is None:
                slot.replaces = None

    def note_ready(self, worker: WorkerHandle) -> None:
        """Let the new version count."""
        if self._is_new(worker):
            self._pool.spec = self._target
        self.advance()

    def note_failed(self, slot: Slot, error: StartError) -> bool:
        """Go back if it is the first failure of the new version."""
        if self._target is not self._spec or slot.spec is not self._spec:
            return False
        self._fail(error)
        return True

    def close(self) -> None:
        """Release the program of the version that does not count."""
        for spec in (self._previous, self._spec):
            if spec is not self._pool.spec:
                spec.close()

    def _is_new(self, worker: WorkerHandle) -> bool:
        return worker.version == self._target.version

    def _swap(self, worker: WorkerHandle) -> None:
        if self._is_in_place or self._pool.surplus():
            self._retire(self._pool, worker)
            return
        spare = self._pool.spare()
        if spare is not None:
            spare.replaces = worker
            self._launch(self._pool, spare, self._target)

    def _launch_first(self) -> None:
        """Launch a worker of a step that has none, such as one whose workers die."""
        waiting = next((slot for slot in self._pool.slots if slot.restart is not None), None)
        slot = waiting or self._pool.spare()
        if slot is not None:
            slot.cancel_timers()
            self._launch(self._pool, slot, self._target)
