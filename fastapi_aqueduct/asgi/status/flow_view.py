"""A flow as the status page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...flow import Flow, FlowState, FlowStatistics
from .distribution import describe_part
from .history import rate
from .replacements import Replacements
from .step_view import Declared, describe_step

OUTCOMES = ("completed", "failed", "timed_out", "cancelled")


class FlowView:
    """Describes a flow.

    Args:
        flow: The flow.
        replacements: The handlers that may replace those of its steps.
    """

    def __init__(self, flow: Flow, replacements: Replacements) -> None:
        self.flow = flow
        self._replacements = replacements

    def describe(self, now: FlowStatistics, before: FlowStatistics | None, seconds: float) -> dict[str, Any]:
        """Return the flow for JSON.

        Args:
            now: Its statistics.
            before: Those at the beginning of the window; None: there is none.
            seconds: The length of the window.
        """
        histograms, old = now.histograms, before.histograms if before is not None else None
        return {
            "name": now.name,
            "state": now.state,
            "reason": now.reason,
            "silent_for": now.silent_for,
            "shape": self.flow.shape,
            "in_flight": now.in_flight,
            "uploads": now.uploads,
            "outcomes": {
                name: {"total": getattr(now, name), "rate": rate(getattr(now, name), getattr(before, name, 0), seconds)}
                for name in OUTCOMES
            },
            "refusals": {
                reason: {"total": total, "rate": rate(total, before.refusals.get(reason, 0) if before else 0, seconds)}
                for reason, total in now.refusals.items()
            },
            "recorded": now.recordings.recorded if now.recordings is not None else 0,
            "total_time": describe_part(histograms, old, "total_time"),
            "first_item": describe_part(histograms, old, "first_item"),
            "memory": asdict(now.arena),
            "template": asdict(now.template) if now.template is not None else None,
            "steps": self._steps(now, before, seconds),
        }

    def _steps(self, now: FlowStatistics, before: FlowStatistics | None, seconds: float) -> Sequence[dict[str, Any]]:
        old = {step.name: step for step in before.steps} if before is not None else {}
        numbers, steps = self._numbers(), self.flow.steps
        off = {} if now.state == FlowState.RUNNING else {"state": "off"}
        return [
            describe_step(
                step,
                old.get(step.name),
                seconds,
                Declared(
                    steps[step.name],
                    {**numbers.get(None, {}), **numbers.get(step.name, {})},
                    self._replacements.names(steps[step.name]),
                ),
            )
            | off
            for step in now.steps
        ]

    def _numbers(self) -> Mapping[str | None, dict[str, Any]]:
        found: dict[str | None, dict[str, Any]] = {}
        if self.flow.state is FlowState.RUNNING:  # else they would be read from the environment, which may be wrong
            for setting in self.flow.settings:
                found.setdefault(setting.step, {})[setting.option] = setting.value
        return found
