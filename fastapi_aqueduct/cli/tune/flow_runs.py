"""Runs of the whole flow: with its own settings, and with those that are recommended."""

from __future__ import annotations

import time

from ...engine.options import EngineOptions
from ...exceptions import StartError
from ...flow import Flow
from ...task import BaseTask
from ..sample import Sample, SampleFailed
from .bench import Bench
from .calls import CallFailed
from .goal import Load
from .model import Settings
from .prepared import renewed
from .result import Run

SHARE, LONGEST_SHARE = 0.12, 0.25
"""Planned and largest share of the budget for one run."""

MOST_TAKING = 0.2
"""Share of a run that may be spent on making tasks. A flow that waits for tasks is slower than predicted."""

FURTHER_ANSWERS = 12
"""Minimum number of counted answers in a run, beside one for each caller."""


class FlowRuns:
    """Runs a flow under loads.

    Args:
        flow: The flow, which does not run.
        options: Its options.
        sample: Makes its tasks.
        budget: Seconds of the session.

    Attributes:
        notes: What the user should know about the runs.
        seconds: Duration of the last load in seconds; before the first run, the expected duration.
    """

    def __init__(self, flow: Flow, options: EngineOptions, sample: Sample, budget: float) -> None:
        self._flow = flow
        self._options = options
        self._sample = sample
        self._shortest, self._longest = SHARE * budget, LONGEST_SHARE * budget
        self.notes: list[str] = []
        self.seconds = self._shortest

    async def run(self, settings: Settings, load: Load, streams: bool) -> Run | None:
        """Run the flow.

        Args:
            settings: What it has, of the steps that samples visit.
            load: The load.
            streams: Whether it sends items.

        Returns:
            What it did; None if it did nothing, which is noted.
        """
        try:
            async with Bench.running(self._flow, streams) as bench:
                await self._scale(settings)
                begun = time.monotonic()
                least = 2 * load.callers + FURTHER_ANSWERS
                outcome = await bench.load(self._take, load, self._shortest, self._longest, least)
                self.seconds = time.monotonic() - begun
        except CallFailed as exc:
            self.notes.append(f"a run of the whole flow failed: {exc}; a larger --budget has longer runs")
            return None
        except SampleFailed as exc:
            self.notes.append(f"a run of the whole flow failed: {exc}")
            return None
        except StartError as exc:
            self.notes.append(f"the whole flow did not start: {exc}")
            return None
        if len(outcome.times) < FURTHER_ANSWERS:
            self.notes.append(
                f"a run of the whole flow had only {len(outcome.times)} answers that count, so its figures are rough; "
                "a larger --budget has longer runs"
            )
        if outcome.taking > MOST_TAKING:
            self.notes.append(
                f"the sample function took {outcome.taking:.0%} of the time of a run of the whole flow, which could do "
                "more: have the function copy what it has prepared"
            )
        if outcome.failed:
            self.notes.append(f"{outcome.failed} tasks failed in the whole flow, the last: {outcome.error}")
        return Run(settings, load, outcome)

    async def _scale(self, settings: Settings) -> None:
        """Give elastic steps their workers: to start them takes longer than a run, and would be counted."""
        for name, step in self._options.steps:
            if step.autoscale is not None and name in settings:
                await self._flow.steps[name].scale(settings[name].nprocs)

    def _take(self, count: int) -> list[BaseTask]:
        return [renewed(self._sample.next_task()) for _ in range(count)]
