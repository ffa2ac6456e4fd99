"""Trial: one more worker of a step, which tries out another handler beside those that serve."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Protocol

from ...exceptions import NotRunningError, StartError
from ..statistics import TrialReport, WorkerRole, WorkerState
from .change import Change
from .handle import WorkerHandle
from .pool import LEAVING, Pool, PoolObserver
from .slot import Slot
from .spec import WorkerSpec


class Traffic(Protocol):
    """Gives tasks, or copies of tasks, to the worker of a trial."""

    @property
    def role(self) -> WorkerRole:
        """What the worker is for."""

    @property
    def observer(self) -> PoolObserver | None:
        """Receives the events of the worker in the place of the pool's observer; None: that does."""

    def note_ready(self, worker: WorkerHandle) -> None:
        """Begin, or go on after a death: the worker accepts tasks."""

    def note_death(self, role: WorkerRole) -> None:
        """Count the death of a worker of the step.

        Args:
            role: What it was for.
        """

    def end(self) -> None:
        """Give no more tasks to the worker, and release what is held for the trial."""

    def report(self) -> TrialReport:
        """Return what both sides have done."""


class Trial(Change):
    """Has one more worker beside those that a pool should have, until it ends or is kept.

    A worker that dies is launched again as those that serve are. A death of it never makes the step count as broken.

    Args:
        pool: The pool.
        spec: What the worker runs.
        traffic: Gives it tasks.
        launch: Launches a worker of a version in a free slot of a pool.
        retire: Has a worker of a pool leave when it has answered its tasks.
        dismiss: Stops a worker, and kills it if it does not end.
        on_end: Called when the worker has gone.

    Attributes:
        spec: As given.
    """

    def __init__(
        self,
        pool: Pool,
        spec: WorkerSpec,
        traffic: Traffic,
        launch: Callable[[Pool, Slot, WorkerSpec], None],
        retire: Callable[[Pool, WorkerHandle], None],
        dismiss: Callable[[WorkerHandle], None],
        on_end: Callable[[Change], None],
    ) -> None:
        super().__init__("tried out beside another handler", on_end)
        self.spec = spec
        self._pool = pool
        self._traffic = traffic
        self._launch = launch
        self._retire = retire
        self._dismiss = dismiss
        self._slot: Slot | None = None
        self._has_begun = False
        self._is_over = False
        self._is_kept = False

    @property
    def is_open(self) -> bool:
        """Whether it has neither ended nor been kept."""
        return not self._is_over and not self._is_kept

    def check_open(self) -> None:
        """Check that it has not ended.

        Raises:
            NotRunningError: It has.
        """
        if not self.is_open:
            raise NotRunningError(f"the handler that was tried out at {self._pool.name} has gone: the trial is over")

    async def end(self) -> None:
        """End it, and wait until the worker has answered its tasks and gone. Does nothing if it has ended.

        A cancellation does not wait for that.
        """
        if self.is_open:
            self.go_back()
            await self.run()

    def keep(self) -> None:
        """Make the worker one of the step's, which then has one too many.

        Raises:
            NotRunningError: The trial has ended.
        """
        self.check_open()
        self._is_kept = True
        self._traffic.end()
        slot = self._slot
        if slot is not None:
            if slot.restart is not None:
                slot.cancel_timers()
            self._pool.keep(slot)

    def advance(self) -> None:
        """Launch the worker, or have it leave."""
        slot = self._slot
        if self._is_over:
            if slot is None or slot.worker is None:
                self._leave(slot)
            else:
                self._send_away(slot.worker)
        elif slot is None:
            slot = self._slot = self._pool.spare()  # None: wait until a worker that leaves has gone
            if slot is not None:
                slot.role = self._traffic.role
                self._pool.shadow_observer = self._traffic.observer
                self._launch(self._pool, slot, self.spec)
        elif slot.worker is None and slot.restart is None:  # another event loop drives the flow
            self._launch(self._pool, slot, self.spec)

    def go_back(self) -> None:
        """Have the worker leave."""
        if self.is_open:
            self._is_over = True
            self._traffic.end()

    def note_ready(self, worker: WorkerHandle) -> None:
        """Let the worker have tasks."""
        if self._slot is not None and worker is self._slot.worker and not self._is_over:
            self._has_begun = True
            self._traffic.note_ready(worker)
            self._set_done()
        else:
            self.advance()

    def note_failed(self, slot: Slot, error: StartError) -> bool:
        """End the trial if its worker has never been ready."""
        if slot is not self._slot:
            return False
        if not self._is_over:
            if self._has_begun:
                self._traffic.note_death(slot.role)
            else:
                self._fail(error)
        return self._is_over

    def note_death(self, slot: Slot, worker: WorkerHandle) -> bool:
        """Count a death."""
        if self._is_over:
            return slot is self._slot
        self._traffic.note_death(worker.role)
        return False

    def abandon(self, error: Exception) -> None:
        """End it at once: the flow stops."""
        if self._done is not None and not self._done.done():
            super().abandon(error)
        if self.is_open:
            self._is_over = True
            self._traffic.end()

    def report(self) -> TrialReport:
        """Return what both sides have done."""
        return self._traffic.report()

    def close(self) -> None:
        """Release the program."""
        if not self._is_kept:
            self.spec.close()

    def _send_away(self, worker: WorkerHandle) -> None:
        if worker.state in LEAVING:
            return
        if worker.state is WorkerState.READY and worker.role is WorkerRole.CANARY:
            self._retire(self._pool, worker)
            return
        if worker.state is WorkerState.STARTING:
            worker.signal(signal.SIGTERM)  # it reads nothing while it loads its model
        self._dismiss(worker)

    def _leave(self, slot: Slot | None) -> None:
        if slot is not None:
            slot.cancel_timers()
            slot.role = WorkerRole.SERVING
            self._slot = None
        self._pool.shadow_observer = None
        self._end()
