"""The dashboard and the alert rules of the documentation are valid, and the rules fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from fastapi_aqueduct.metrics.families import _OF_FLOWS, _OF_JOBS, _OF_STEPS, _OF_WORKERS

from . import dashboard
from .server import NEEDS_PROMETHEUS
from .watching import RULES, alerts

CONFIGURATION = RULES.with_name("prometheus.yml")
TESTS_OF_RULES = Path(__file__).with_name("alerts_test.yml")


@NEEDS_PROMETHEUS
def test_the_rules_fire_and_do_not_fire() -> None:
    """As their unit tests say, which have each of the rules."""
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(TESTS_OF_RULES)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = re.findall(r"alertname: (\w+)", TESTS_OF_RULES.read_text())
    assert set(tested) == alerts()


@NEEDS_PROMETHEUS
def test_the_configuration_for_the_example_is_valid() -> None:
    """With the rules beside it."""
    done = subprocess.run(["promtool", "check", "config", str(CONFIGURATION)], capture_output=True, text=True)
    assert done.returncode == 0 and f"{len(alerts())} rules found" in done.stdout, done.stdout + done.stderr


def test_the_dashboard_is_what_its_panels_say() -> None:
    """``python -m tests.monitoring`` renews it."""
    assert dashboard.FILE.read_text() == dashboard.build()


def test_the_dashboard_is_one_of_grafana() -> None:
    """All of it has a place in Grafana's schema."""
    register_default_plugins()
    text = dashboard.FILE.read_text()
    parsed = Dashboard.from_json(json.loads(text))
    assert json.dumps(parsed, cls=JSONEncoder, indent=2) + "\n" == text


def test_what_is_measured_is_on_the_dashboard_or_said_not_to_be() -> None:
    """A metric that is added gets a panel, or a reason here."""
    elsewhere = {
        "aqueduct_busy_share",  # as a rate of the seconds
        "aqueduct_failures_dropped",  # of an application with a recorder
        "aqueduct_failures_recorded",
        "aqueduct_failed_launches",  # seen as workers that are not ready
        "aqueduct_step_broken",  # alerts
        "aqueduct_step_given_up",
        "aqueduct_step_hanging_seconds",
        "aqueduct_step_version",  # a label of the metrics of workers
        "aqueduct_tasks_coalesced",  # 0 without a key
        "aqueduct_worker_resident_memory_bytes",  # has the shared memory in it
    }
    text = " ".join(query.expression for panel in dashboard.PANELS for query in panel.queries)
    shown = set(re.findall(r"aqueduct_\w+?(?=_total\b|_bucket\b|_sum\b|_count\b|\b)", text))
    assert {family.name for family in (*_OF_STEPS, *_OF_WORKERS, *_OF_FLOWS, *_OF_JOBS)} - shown == elsewhere
