"""The traffic of a canary: a share of the tasks of a step."""

from __future__ import annotations

from ..statistics import TrialReport, WorkerRole
from ..workers.handle import WorkerHandle
from .comparison import Comparison
from .split import Split
from .stage import Stage


class CanaryTraffic:
    """Gives a canary its share of the tasks of a step.

    Args:
        stage: The step.
        version: The version of the canary.
        share: Its part of the tasks.
    """

    role = WorkerRole.CANARY
    observer = None

    def __init__(self, stage: Stage, version: int, share: float) -> None:
        self._stage = stage
        self._split = Split(share)
        self._comparison = Comparison(stage.pool.spec.version, version)

    def note_ready(self, worker: WorkerHandle) -> None:
        """Give it tasks from now on."""
        self._split.canary = worker
        self._stage.split = self._split
        self._stage.comparison = self._comparison

    def note_death(self, role: WorkerRole) -> None:
        """Count the death of a worker of the step."""
        self._comparison.note_death(role)

    def end(self) -> None:
        """Give it no more tasks. Those that it has in hand are not counted."""
        self._stage.split = self._stage.comparison = None

    def report(self) -> TrialReport:
        """Return what both sides have done."""
        return self._comparison.report()
