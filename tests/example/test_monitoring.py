"""Every expression of the dashboard and of the alert rules, answered by a Prometheus that scrapes the example."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from example_app.service import Service

from ..monitoring import dashboard
from ..monitoring.server import NEEDS_PROMETHEUS
from ..monitoring.watching import Watched, alerts, watching

pytestmark = [NEEDS_PROMETHEUS, pytest.mark.timeout(240)]

LOAD_TIME = 4.0
"""Seconds."""


@pytest.fixture(scope="module")
def watched(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A Prometheus that has scraped the example, and a lighter service that gets more requests."""
    with watching(tmp_path_factory.mktemp("prometheus"), service, LOAD_TIME) as watched:
        yield watched


@pytest.mark.parametrize("panel", dashboard.PANELS, ids=lambda panel: panel.title)
def test_a_panel_has_data(watched: Watched, panel: dashboard.Panel) -> None:
    """Each of its expressions is answered with numbers."""
    for query in panel.queries:
        series = watched.answer(query.expression)
        assert series, query.expression
        # Each series has all that the legend names.
        assert all(set(re.findall(r"{{(\w+)}}", query.legend)) <= item.labels.keys() for item in series)


def test_the_example_is_on_the_dashboard(watched: Watched) -> None:
    """All but jobs, of which it has none."""
    missing = []
    for panel in dashboard.PANELS:
        series = [item for query in panel.queries for item in watched.answer(query.expression)]
        if not any(item.labels["flow"] == "flow" for item in series):
            missing.append(panel.title)
    assert missing == [panel.title for panel in dashboard.ROWS["Jobs"]]


def test_the_rules_are_evaluated(watched: Watched) -> None:
    """Without an error, over series that exist."""
    rules = watched.prometheus.rules()
    assert rules.keys() == alerts()
    for name, rule in rules.items():
        assert (rule["health"], rule.get("lastError")) == ("ok", None), name
        without_limits = re.sub(r" (==|>) [0-9.]+", "", rule["query"])
        assert without_limits != rule["query"]
        assert watched.prometheus.query(without_limits), name
