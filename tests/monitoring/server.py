"""A Prometheus that scrapes services."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from ..support import DEADLINE, wait_until

INTERVAL = "500ms"
"""Between two scrapes of a service."""

NEEDS_PROMETHEUS = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus"
)


class Series(NamedTuple):
    """One time series of an answer.

    Attributes:
        labels: Its labels, without its name.
        points: Its times and values; one of each for a query at an instant.
    """

    labels: dict[str, str]
    points: list[tuple[float, float]]

    @property
    def value(self) -> float:
        """The last value."""
        return self.points[-1][1]


class RefusedQuery(Exception):
    """Prometheus did not answer an expression."""


class Prometheus:
    """A running Prometheus.

    Args:
        url: Where it listens.
    """

    def __init__(self, url: str) -> None:
        # No connection stays open, for the check that a test leaves nothing behind.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(base_url=f"{url}/api/v1", timeout=DEADLINE, trust_env=False, limits=limits)

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def query(self, expression: str) -> list[Series]:
        """Evaluate an expression now.

        Raises:
            RefusedQuery: It cannot be parsed, or not be evaluated.
        """
        return self._answer("query", query=expression)

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """Evaluate an expression at each ``step`` seconds of a range of time.

        Raises:
            RefusedQuery: It cannot be parsed, or not be evaluated.
        """
        return self._answer("query_range", query=expression, start=start, end=end, step=step)

    def rules(self) -> dict[str, dict[str, Any]]:
        """Return the state of each rule by its name."""
        groups = self._client.get("rules").raise_for_status().json()["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def has_scraped(self, targets: int) -> bool:
        """Tell whether this number of services was scraped."""
        return len([series for series in self.query("up") if series.value == 1]) == targets

    def _answer(self, path: str, **parameters: str | float) -> list[Series]:
        answer = self._client.post(path, data=parameters).json()
        if answer["status"] != "success":
            raise RefusedQuery(f"{parameters['query']}: {answer['error']}")
        found = []
        for series in answer["data"]["result"]:
            points = series.get("values") or [series["value"]]
            labels = {key: value for key, value in series["metric"].items() if key != "__name__"}
            found.append(Series(labels, [(float(time), float(value)) for time, value in points]))
        return found


@contextlib.contextmanager
def running_prometheus(directory: Path, ports: Sequence[int], rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes services of this machine.

    Args:
        directory: An empty directory.
        ports: Where the services listen.
        rules: Files with rules.
    """
    targets = [f"127.0.0.1:{port}" for port in ports]
    configuration = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "services", "static_configs": [{"targets": targets}]}],
    }
    with configured_prometheus(directory, configuration) as prometheus:
        yield prometheus


@contextlib.contextmanager
def configured_prometheus(directory: Path, configuration: dict[str, Any]) -> Iterator[Prometheus]:
    """Run a Prometheus.

    Args:
        directory: An empty directory.
        configuration: Its configuration file.
    """
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(configuration))  # YAML is a superset of JSON
    log = directory / "log"
    options = {"config.file": file, "storage.tsdb.path": directory / "data", "web.listen-address": "127.0.0.1:0"}
    arguments = [f"--{option}={value}" for option, value in options.items()]
    with log.open("wb") as output, subprocess.Popen(["prometheus", *arguments], stderr=output) as process:
        try:
            ready = "Server is ready to receive web requests"
            assert wait_until(lambda: process.poll() is not None or ready in log.read_text(), DEADLINE)
            assert process.poll() is None, log.read_text()
            found = re.search(r'"Listening on" address=(\S+)', log.read_text())
            assert found is not None, log.read_text()
            with Prometheus(f"http://{found[1]}") as prometheus:
                yield prometheus
        finally:
            process.terminate()
