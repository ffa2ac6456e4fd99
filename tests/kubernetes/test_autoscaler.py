"""The autoscaler decides as Kubernetes documents it."""

from __future__ import annotations

import pytest

from .autoscaler import Autoscaler, Pods, recommend
from .manifests import Metric, Policy, Rules, Scaling

VALUE = Metric("", 0.7)
OF_PODS = Metric("", 0.7, is_of_pods=True)


@pytest.mark.parametrize(
    ("metric", "values", "pods", "expected"),
    [
        (VALUE, [1.0], Pods(2, 2, 2), 3),
        (VALUE, [0.35], Pods(4, 4, 4), 2),
        (VALUE, [0.76], Pods(2, 2, 2), 2),  # within the tolerance
        (VALUE, [1.4], Pods(4, 4, 2), 4),  # two of them are starting
        (VALUE, [], Pods(3, 3, 3), 3),
        (OF_PODS, [1.0, 1.0], Pods(2, 2, 2), 3),
        (OF_PODS, [1.0, 1.0], Pods(4, 4, 2), 4),  # two have no value yet, and count as idle
        (OF_PODS, [0.2, 0.2], Pods(3, 3, 3), 2),  # one has none, and counts as at its target
    ],
)
def test_a_metric_recommends_a_number(metric: Metric, values: list[float], pods: Pods, expected: int) -> None:
    assert recommend(metric, values, pods) == expected


def autoscaler() -> Autoscaler:
    up = Rules(0, (Policy(True, 100, 30),))
    down = Rules(300, (Policy(False, 1, 60),))
    return Autoscaler(Scaling(2, 10, (), up, down))


def test_it_doubles_at_most_in_half_a_minute() -> None:
    scaler = autoscaler()
    assert scaler.decide(0, 2, 9) == 4
    assert scaler.decide(15, 4, 9) == 4
    assert scaler.decide(30, 4, 9) == 8
    assert scaler.decide(60, 8, 99) == 10


def test_it_removes_a_pod_a_minute_after_five_quiet_minutes() -> None:
    scaler = autoscaler()
    assert scaler.decide(0, 5, 5) == 5
    assert [scaler.decide(time, 5, 2) for time in range(15, 301, 15)] == [5] * 20
    assert scaler.decide(315, 5, 2) == 4
    assert scaler.decide(330, 4, 2) == 4
    assert scaler.decide(375, 4, 2) == 3
    assert scaler.decide(435, 3, 2) == 2
    assert scaler.decide(495, 2, 1) == 2
