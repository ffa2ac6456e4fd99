"""The number of pods that a HorizontalPodAutoscaler wants: the algorithm of Kubernetes, on metrics of Prometheus.

Also KEDA scales from one pod on by a HorizontalPodAutoscaler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .manifests import TOLERANCE, Metric, Policy, Rules, Scaling

SYNC_PERIOD = 15.0
"""Seconds between two decisions."""


class Pods(NamedTuple):
    """The pods of a Deployment, as the autoscaler counts them.

    Attributes:
        wanted: The number that it was set to.
        running: Pods that are not being stopped.
        ready: Those that are ready.
    """

    wanted: int
    running: int
    ready: int


def recommend(metric: Metric, values: Sequence[float], pods: Pods) -> int:
    """Return the number of pods with which a metric should be at its target.

    Pods that are not ready do not count: the ones that were added last would be added again.

    Args:
        metric: The metric.
        values: What it is; of a metric of pods the value of each.
        pods: The pods now.
    """
    if not values:
        return pods.wanted
    if metric.is_of_pods:
        return _recommend_by_pods(metric, values, pods)
    ratio = values[0] / metric.target
    return pods.wanted if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * pods.ready)


def _recommend_by_pods(metric: Metric, values: Sequence[float], pods: Pods) -> int:
    mean = sum(values) / len(values) / metric.target
    missing = max(0, pods.running - len(values))
    # A pod without a value counts as idle before pods are added, as at its target before they are removed.
    total = sum(values) + missing * (0.0 if mean > 1 else metric.target)
    number = len(values) + missing
    ratio = total / number / metric.target
    if abs(mean - 1) <= TOLERANCE or abs(ratio - 1) <= TOLERANCE or (mean > 1) != (ratio > 1):
        return pods.wanted
    return math.ceil(ratio * number)


class Autoscaler:
    """Remembers recommendations and changes, and limits how fast the number of pods changes.

    Args:
        scaling: What it acts on.
    """

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        self._recommended: list[tuple[float, int]] = []
        self._changes: list[tuple[float, int]] = []

    def decide(self, now: float, wanted: int, recommended: int) -> int:
        """Return the number of pods from now on.

        Args:
            now: Time in seconds.
            wanted: The present number.
            recommended: The highest recommendation of all metrics.
        """
        self._recommended.append((now, recommended))
        number = self._limit(now, wanted, self._stabilise(now, wanted))
        if number != wanted:
            self._changes.append((now, number - wanted))
        return number

    def _stabilise(self, now: float, wanted: int) -> int:
        lowest = min(self._within(self._scaling.up, now))
        highest = max(self._within(self._scaling.down, now))
        return min(max(wanted, lowest), highest)

    def _within(self, rules: Rules, now: float) -> list[int]:
        return [number for time, number in self._recommended if time >= now - rules.window]

    def _limit(self, now: float, wanted: int, number: int) -> int:
        if number > wanted:
            most = max(self._most(policy, now, wanted) for policy in self._scaling.up.policies)
            number = max(wanted, min(number, most))
        elif number < wanted:
            fewest = min(self._fewest(policy, now, wanted) for policy in self._scaling.down.policies)
            number = min(wanted, max(number, fewest))
        return min(max(number, self._scaling.minimum), self._scaling.maximum)

    def _most(self, policy: Policy, now: float, wanted: int) -> int:
        start = wanted - sum(change for change in self._since(policy, now) if change > 0)
        return math.ceil(start * (1 + policy.value / 100)) if policy.is_percentage else start + policy.value

    def _fewest(self, policy: Policy, now: float, wanted: int) -> int:
        start = wanted - sum(change for change in self._since(policy, now) if change < 0)
        return math.floor(start * (1 - policy.value / 100)) if policy.is_percentage else start - policy.value

    def _since(self, policy: Policy, now: float) -> list[int]:
        return [change for time, change in self._changes if time > now - policy.period]
