"""A real server with tenants, one of which sends ten times its share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..benchmarks.fairness import FLOOD, MOST, run


@pytest.mark.long
def test_one_that_sends_ten_times_its_share_raises_the_p95_of_others_little(tmp_path: Path) -> None:
    before = run("/shared", 1, 1, tmp_path / "before")
    flooded = run("/shared", FLOOD, 1, tmp_path / "flooded")
    assert flooded.failed == before.failed == 0
    assert flooded.p95 <= MOST * before.p95
    without = run("/plain", FLOOD, 1, tmp_path / "without")
    assert without.p95 > MOST * flooded.p95
