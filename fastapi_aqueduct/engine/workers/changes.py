"""Changes: the changes of the workers of steps while these serve, one of a step at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ...exceptions import StepChanging
from .change import Change
from .pool import Pool
from .recycler import Recycler
from .resizing import Resizing
from .rollout import Rollout
from .slot import Slot
from .spec import WorkerSpec
from .trial import Traffic, Trial


class Changes:
    """Makes the changes of the workers of steps.

    Args:
        flow: Name of the flow.
        pools: The workers of its steps.
        recycler: Has workers leave, and waits while there is a change.
        launch: Launches a worker of a version in a free slot of a pool.
        fit: Launches the workers that a pool lacks, and has those leave that are too many.
    """

    def __init__(
        self,
        flow: str,
        pools: Sequence[Pool],
        recycler: Recycler,
        launch: Callable[[Pool, Slot, WorkerSpec], None],
        fit: Callable[[Pool], None],
    ) -> None:
        self._flow = flow
        self._pools = pools
        self._recycler = recycler
        self._launch = launch
        self._fit = fit

    def spec_of(self, index: int) -> WorkerSpec:
        """Return what new workers of a step run, with the number of the last version that there was.

        Args:
            index: Index of the step.

        Raises:
            StepChanging: A change of the step is under way.
        """
        pool = self._pools[index]
        self._check(pool)
        return replace(pool.spec, version=pool.last_version)

    async def replace(self, index: int, spec: WorkerSpec, is_in_place: bool) -> None:
        """Replace the workers of a step by those of another version; see `Rollout`.

        Args:
            index: Index of the step.
            spec: The other version, which this closes if it does not come to serve.
            is_in_place: Whether the old worker leaves before the new one is started.

        Raises:
            StepChanging: Another change of the step is under way.
            StartError: A worker could not be started. The workers are those from before.
            NotRunningError: The flow was stopped meanwhile.
        """
        pool = self._accept(index, spec)
        end = partial(self._end_change, pool)
        pool.change = Rollout(pool, spec, self._launch, self._recycler.retire, end, is_in_place)
        await pool.change.run()

    async def resize(self, index: int, size: int) -> None:
        """Give a step another number of workers; see `Resizing`.

        Args:
            index: Index of the step.
            size: How many workers it should have.

        Raises:
            StepChanging, StartError, NotRunningError: As for `replace`.
            ConfigurationError: There is no shared memory for that number of workers.
        """
        pool = self._pools[index]
        self._check(pool)
        pool.check_size(size)
        pool.change = Resizing(pool, size, self._fit, partial(self._end_change, pool))
        await pool.change.run()

    def trial(self, index: int, spec: WorkerSpec, traffic: Traffic) -> Trial:
        """Make the trial of another version beside the workers of a step; `Trial.run` waits until it has begun.

        Args:
            index: Index of the step.
            spec: The other version, which this closes if it does not come to serve.
            traffic: Gives tasks to its worker.

        Raises:
            StepChanging: Another change of the step is under way.
        """
        pool = self._accept(index, spec)
        retire, dismiss = self._recycler.retire, self._recycler.dismiss
        trial = Trial(pool, spec, traffic, self._launch, retire, dismiss, partial(self._end_change, pool))
        pool.change = trial
        return trial

    async def promote(self, index: int, trial: Trial) -> None:
        """End a trial by replacing the workers of the step by those of its version; see `Rollout`.

        Args:
            index: Index of the step.
            trial: The trial; its worker becomes one of the step's.

        Raises:
            NotRunningError: The trial has ended, or the flow was stopped meanwhile.
            StartError: A worker could not be started. The workers are those from before the trial.
        """
        pool = self._pools[index]
        trial.keep()
        end = partial(self._end_change, pool)
        rollout = pool.change = Rollout(pool, trial.spec, self._launch, self._recycler.retire, end, is_in_place=False)
        if any(worker.version == trial.spec.version for worker in pool.ready_workers()):
            pool.spec = trial.spec
        await rollout.run()

    def advance(self) -> None:
        """Have the changes under way go on, in another event loop."""
        for pool in self._pools:
            if pool.change is not None:
                pool.change.advance()

    def abandon(self, error: Exception) -> None:
        """Let changes under way raise an error: the flow stops."""
        for pool in self._pools:
            if pool.change is not None:
                pool.change.abandon(error)

    def _accept(self, index: int, spec: WorkerSpec) -> Pool:
        """Return the pool that another version is for; the version is closed if another change is under way."""
        pool = self._pools[index]
        try:
            self._check(pool)
        except StepChanging:
            spec.close()
            raise
        pool.last_version = spec.version
        return pool

    def _check(self, pool: Pool) -> None:
        if pool.change is not None:
            raise StepChanging(
                f"{pool.name} of flow {self._flow} is being {pool.change.what}: one change of a step at a time; wait "
                "until that has ended"
            )

    def _end_change(self, pool: Pool, change: Change) -> None:
        pool.change = None
        self._recycler.check_all(pool)

    def size_of(self, index: int) -> int:
        """Return how many workers a step should have now.

        Args:
            index: Index of the step.
        """
        return self._pools[index].size
