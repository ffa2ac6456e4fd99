"""A service on Kubernetes loses no request: what it cannot serve it refuses, and clients know when to come again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ..edge.proxy import NGINX
from ..monitoring.server import NEEDS_PROMETHEUS
from .journal import Journal
from .manifests import Scaling
from .scenario import play

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx"),
    NEEDS_PROMETHEUS,
]

SPEED = 10.0
"""The autoscaler waits 30 s before it removes pods, and not five minutes."""


@pytest.mark.parametrize(
    ("scaled_by", "has_releases"), [("scaledobject.yaml", True), ("horizontalpodautoscaler.yaml", False)]
)
def test_no_request_is_lost(tmp_path: Path, scaled_by: str, has_releases: bool) -> None:
    """In overload, crash loops, releases and while pods are added and removed; and all pods stop by themselves."""
    with (tmp_path / "journal.jsonl").open("w") as file:
        result = asyncio.run(play(tmp_path, Journal(file, echo=True), scaled_by, SPEED, has_releases))
    assert result.losses == []
    assert result.totals["refused"] > 0
    assert result.totals["answered"] > 5 * result.totals["refused"]
    assert result.most > Scaling.read(scaled_by).minimum
    assert result.killed == []
    assert result.failed == []
    assert result.tracebacks == []
