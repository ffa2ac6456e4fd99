"""Measures the calls of a step with the sample: one task, and a full batch."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ...engine.marks import Marker
from ...step import FlowStep
from ...task import BaseTask
from .report import Times
from .step_calls import Calls, Round

MOST_ROUNDS = 20
"""Rounds that are measured, with one task and with a full batch; the fastest counts, since others were disturbed."""

BUDGET = 2.0
"""Seconds after which no further round begins."""


class Measurement:
    """Measures a step.

    Args:
        step: Its options.
        calls: Has it make calls.
        first_call: Seconds of its first call.
    """

    def __init__(self, step: FlowStep, calls: Calls, first_call: float) -> None:
        self._step = step
        self._calls = calls
        self._first_call = first_call

    async def run(self, task: BaseTask) -> Times:
        """Measure it.

        Args:
            task: A task as it came to the step.

        Raises:
            Exception: A call has failed.
        """
        size = self._batch_size(task)
        singles = await self._rounds(task, 1)
        warm = min((call.duration for part in singles for call in part.calls), default=None)
        if size == 1:
            return Times(self._first_call, warm)
        batches = await self._rounds(task, size)
        whole, alone = _whole_calls(batches, size), _whole_calls(singles, 1)
        if whole and alone and not self._step.continuous:
            return Times(self._first_call, warm, size, min(whole) / size, min(alone))
        batched, single = ([part.elapsed for part in rounds if part.elapsed] for rounds in (batches, singles))
        if not batched or not single:
            return Times(self._first_call, warm)  # no full batch has formed
        return Times(self._first_call, warm, size, min(batched) / size, min(single), is_staggered=True)

    def _batch_size(self, task: BaseTask) -> int:
        """Return how many copies of a task share a batch: fewer than ``batch_size`` if they cost too much together."""
        most, limited = self._step.batch_size, self._step.batch_cost
        cost = 0 if limited is None else Marker(self._step.name or "", cost=limited.of).read(task).cost
        return most if limited is None or not cost else max(1, min(most, limited.limit // cost))

    async def _rounds(self, task: BaseTask, count: int) -> Sequence[Round]:
        begun_at = time.monotonic()
        rounds: list[Round] = []
        while len(rounds) < MOST_ROUNDS and time.monotonic() - begun_at < BUDGET:
            rounds.append(await self._calls.run(task, count))
        return rounds


def _whole_calls(rounds: Sequence[Round], count: int) -> list[float]:
    """Return the seconds of the calls that were for all tasks of a round, and have answered them together."""
    return [call.duration for part in rounds for call in part.calls if call.tasks == count]
