"""Counts what two handlers of one step do, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..statistics import TrialReport, TrialSide, WorkerRole
from ..wire.failures import error_name
from ..wire.frames import Envelope, Status
from ..workers.handle import WorkerHandle
from .accumulator import Accumulator
from .meter import SECONDS


class Side:
    """Counts what the workers of one side do.

    Args:
        version: The version of their handler.

    Attributes:
        deaths: Workers that have died.
    """

    def __init__(self, version: int) -> None:
        self.deaths = 0
        self._version = version
        self._tasks = 0
        self._errors: Counter[str] = Counter()
        self._handle_time = Accumulator(SECONDS)

    def note(self, envelopes: Sequence[Envelope], calls: int, duration: float) -> None:
        """Count answers.

        Args:
            envelopes: The answers.
            calls: How many calls of the handler have ended with them.
            duration: Seconds of one of them.
        """
        has_run = False
        for envelope in envelopes:
            if envelope.status in (Status.EXPIRED, Status.PASSED):
                continue
            has_run = True
            self._tasks += 1
            if envelope.status == Status.ERROR:
                self._errors[error_name(envelope.content.body)] += 1
        if has_run:
            for _ in range(calls):
                self._handle_time.add(duration)

    def snapshot(self) -> TrialSide:
        """Return what was counted."""
        errors = self._errors.copy()
        return TrialSide(
            self._version, self._tasks, errors.total(), dict(errors), self.deaths, self._handle_time.histogram()
        )


class Comparison:
    """Counts the answers of the workers of a step, and of one that tries out another handler.

    Args:
        baseline: The version of the step.
        candidate: The version that is tried out.
    """

    def __init__(self, baseline: int, candidate: int) -> None:
        self.baseline = Side(baseline)
        self.candidate = Side(candidate)

    def note_answers(self, worker: WorkerHandle, envelopes: Sequence[Envelope], calls: int, duration: float) -> None:
        """Count answers to tasks.

        Args:
            worker: The worker.
            envelopes: Its answers.
            calls: How many calls of the handler have ended with them.
            duration: Seconds of one of them.
        """
        side = self.baseline if worker.role is WorkerRole.SERVING else self.candidate
        side.note(envelopes, calls, duration)

    def note_death(self, role: WorkerRole) -> None:
        """Count the death of a worker."""
        side = self.baseline if role is WorkerRole.SERVING else self.candidate
        side.deaths += 1

    def report(self) -> TrialReport:
        """Return what was counted."""
        return TrialReport(self.baseline.snapshot(), self.candidate.snapshot())
