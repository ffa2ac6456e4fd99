"""How `make bench-check` judges the instructions of the plain path."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..benchmarks.plain_path import Baseline, PlainPath, current_interpreter

HERE = current_interpreter()
BASELINE = Baseline(HERE, origin={"one": 1000, "many": 100}, previous={"one": 1040, "many": 100})


@pytest.mark.parametrize(
    ("counts", "over_budget"),
    [
        ({"one": 1071, "many": 103}, []),
        ({"one": 1000, "many": 104}, ["many"]),  # more than the budget of one change
        ({"one": 1072, "many": 90}, ["one"]),
        ({"one": 500, "many": 50}, []),
    ],
)
def test_a_change_has_a_budget(counts: dict[str, float], over_budget: list[str]) -> None:
    assert PlainPath(HERE, counts, BASELINE).over_budget == over_budget


def test_all_changes_have_a_budget_together() -> None:
    baseline = Baseline(HERE, origin={"one": 1000}, previous={"one": 1070})
    assert PlainPath(HERE, {"one": 1080}, baseline).over_budget == []
    assert PlainPath(HERE, {"one": 1081}, baseline).over_budget == ["one"]
    assert "OVER BUDGET" in str(PlainPath(HERE, {"one": 1081}, baseline))


def test_counts_of_another_interpreter_are_printed_and_not_judged() -> None:
    plain_path = PlainPath("CPython 3.99.0, none", {"one": 9999, "many": 9999}, BASELINE)
    assert plain_path.over_budget == []
    assert f"not judged: the baseline is of {HERE}" in str(plain_path)
    assert plain_path.renewed() == BASELINE


def test_renewing_keeps_the_origin() -> None:
    renewed = PlainPath(HERE, {"one": 1071.4, "many": 103.0}, BASELINE).renewed()
    assert renewed == Baseline(HERE, origin=BASELINE.origin, previous={"one": 1071, "many": 103})


def test_without_a_baseline_both_are_of_today(tmp_path: Path) -> None:
    plain_path = PlainPath(HERE, {"one": 10.0}, Baseline.read(tmp_path / "none.json"))
    assert plain_path.over_budget == []
    assert plain_path.renewed() == Baseline(HERE, {"one": 10}, {"one": 10})


def test_the_committed_baseline_can_be_read(tmp_path: Path) -> None:
    baseline = Baseline.read()
    assert baseline is not None
    baseline.write(tmp_path / "copy.json")
    assert Baseline.read(tmp_path / "copy.json") == baseline
    assert baseline.origin.keys() == baseline.previous.keys()
