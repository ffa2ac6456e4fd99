"""Asks schemathesis whether a service does what its OpenAPI schema says."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from .support import script_environment

PATIENCE = 150
"""Seconds in which it must have ended; one more for each example."""

FEW = 100
"""Fewer examples than this are the same in every run: who changes something else is not to find what has been there."""


class Verdict(NamedTuple):
    """What schemathesis found.

    Attributes:
        holds: Whether every answer passed every check.
        output: What it printed: the failures, and a command to repeat each.
        statuses: How often each status was answered.
    """

    holds: bool
    output: str
    statuses: Counter[int]


def check_service(url: str, examples: int, hooks: str = "", settings: str = "") -> Verdict:
    """Send a service what its schema allows, and what it does not, and judge every answer by all checks.

    Args:
        url: Of the service.
        examples: How many requests to invent for each operation, beside those that try every rule of the schema.
        hooks: Module that tells schemathesis more about the data.
        settings: More settings of schemathesis, as TOML.
    """
    # In a process of its own: its command is its interface, and its plugin for pytest lags behind pytest.
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "schemathesis.toml").write_text(settings)
        report = directory / "report.har"
        options = [f"--max-examples={examples}", "--continue-on-failure", "--no-color", "--suppress-health-check=all"]
        options.append("--generation-deterministic" if examples < FEW else "--generation-database=none")
        options.append(f"--report-har-path={report}")
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks=all", *options],
            cwd=directory,
            env={**script_environment(), "SCHEMATHESIS_HOOKS": hooks},
            capture_output=True,
            text=True,
            timeout=PATIENCE + examples,
        )
        return Verdict(done.returncode == 0, done.stdout + done.stderr, _statuses(report))


def _statuses(report: Path) -> Counter[int]:
    if not report.exists():
        return Counter()
    entries = json.loads(report.read_bytes())["log"]["entries"]
    return Counter(entry["response"]["status"] for entry in entries)
