"""The part of the statistics of a pipeline that one of its API processes exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from ..statistics import FlowStatistics
from .status_view import StatusView


class ExportedShare:
    """The part of the statistics that this process exports, so that all processes together export each number once.

    Counts of tasks are those of this process. What all have in common, such as queues and workers, is exported by the
    one that has been connected for longest.

    Args:
        view: The statistics of the flow.
        outcomes: Returns how many tasks of this process have ended how.
    """

    def __init__(self, view: StatusView, outcomes: Callable[[], Mapping[str, int]]) -> None:
        self._view = view
        self._outcomes = outcomes
        self._foreign: dict[str, int] = {}  # restarts that others have exported, by step

    def statistics(self, state: str) -> FlowStatistics:
        """Return a snapshot; see `Measured.statistics`.

        Args:
            state: State of the flow.
        """
        whole = self._view.statistics(state)
        count = Counter(self._outcomes())
        own = replace(
            whole,
            completed=count["completed"],
            failed=count["failed"],
            timed_out=count["timed_out"],
            cancelled=count["cancelled"],
        )
        if not self._view.is_eldest:
            self._foreign = {step.name: step.restarts for step in whole.steps}
            return replace(own, steps=())
        steps = [replace(step, restarts=max(0, step.restarts - self._foreign.get(step.name, 0))) for step in own.steps]
        return replace(own, steps=tuple(steps))
