"""Two services under load, and a Prometheus that scrapes them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

from example_app.demo import load_samples
from example_app.service import Service, running_service

from ..support import DEADLINE, ROOT, wait_until
from .load import load
from .server import Prometheus, Series, running_prometheus

RULES = ROOT / "docs" / "monitoring" / "alerts.yml"


PICTURE = {"Content-Type": "image/png"}

ANSWERS = {"200", "202", "422", "503", "504", "words"}
"""What the light service answers: also refusals, and errors of each kind."""


class Watched(NamedTuple):
    """A Prometheus that has scraped services under load.

    Attributes:
        prometheus: It.
        start: When the load began, in seconds since the epoch.
        end: When it ended.
    """

    prometheus: Prometheus
    start: float
    end: float

    def answer(self, expression: str, interval: float = 2.0) -> list[Series]:
        """Evaluate an expression of the dashboard at each instant of the load, with all flows and steps chosen.

        Args:
            expression: The expression.
            interval: Seconds over which rates are measured.

        Returns:
            The series that have a number.
        """
        for variable, value in {"$flow": ".*", "$step": ".*", "$__rate_interval": f"{interval:.0f}s"}.items():
            expression = expression.replace(variable, value)
        series = self.prometheus.query_range(expression, self.start + 1, self.end, max(0.25, interval / 8))
        return [item for item in series if any(math.isfinite(value) for _, value in item.points)]


@contextlib.contextmanager
def watching(directory: Path, example: Service, seconds: float) -> Iterator[Watched]:
    """Watch the example and the light service under load.

    Args:
        directory: An empty directory.
        example: The example, ready.
        seconds: How long the load lasts.
    """
    with contextlib.ExitStack() as stack:
        environment = {"MONITORED_JOBS": str(directory / "jobs.db")}
        light = stack.enter_context(running_service("tests.monitoring.application:app", 0, environment))
        # At once: it looks for its targets 5 s after its start.
        prometheus = stack.enter_context(running_prometheus(directory, [light.port, example.port], [RULES]))
        light.wait_until_ready()
        assert wait_until(lambda: prometheus.has_scraped(2), DEADLINE)
        start = time.time()
        read_picture(example)
        answers = asyncio.run(load(light.url, seconds))
        assert ANSWERS <= answers.keys(), answers
        yield Watched(prometheus, start, time.time())


def read_picture(example: Service) -> None:
    """Have the example read its smallest picture twice: as a whole, and as a stream."""
    picture = min((sample.path for sample in load_samples()), key=lambda path: path.stat().st_size).read_bytes()
    for path in ("/ocr", "/ocr/stream"):
        answer = httpx.post(f"{example.url}{path}", content=picture, timeout=DEADLINE, headers=PICTURE)
        assert answer.status_code == 200, answer.text


def alerts() -> set[str]:
    """Return the names of the alerts in the documentation."""
    return set(re.findall(r"- alert: (\w+)", RULES.read_text()))
