"""Measures the calls of a step with the sample: one task, and a full batch."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ...step import FlowStep
from ...task import BaseTask
from .report import Times
from .step_calls import Round, StepCalls

MOST_ROUNDS = 5
"""Calls that are measured, with one task and with a full batch."""

BUDGET = 3.0
"""Seconds after which no further call begins."""


class Measurement:
    """Measures a step.

    Args:
        step: Its options.
        calls: Sends it tasks.
        first_call: Seconds of its first call.
    """

    def __init__(self, step: FlowStep, calls: StepCalls, first_call: float) -> None:
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
        size = self._step.batch_size
        singles = await self._rounds(task, 1)
        warm = min((call.duration for part in singles for call in part.calls), default=None)
        if size == 1:
            return Times(self._first_call, warm)
        batches = await self._rounds(task, size)
        whole = _whole_calls(batches, size)
        if self._step.continuous or not whole:
            batched, single = (min(part.elapsed for part in rounds) for rounds in (batches, singles))
            return Times(self._first_call, warm, size, batched / size, single, is_staggered=True)
        return Times(self._first_call, warm, size, min(whole) / size, min(_whole_calls(singles, 1)))

    async def _rounds(self, task: BaseTask, count: int) -> Sequence[Round]:
        begun_at = time.monotonic()
        rounds: list[Round] = []
        while len(rounds) < MOST_ROUNDS and time.monotonic() - begun_at < BUDGET:
            rounds.append(await self._calls.run(task, count))
        return rounds


def _whole_calls(rounds: Sequence[Round], count: int) -> list[float]:
    """Return the seconds of the calls that were for all tasks of a round, and have answered them together."""
    return [call.duration for part in rounds for call in part.calls if call.tasks == count]
