"""Tells the client where the time went: the header ``Server-Timing``, which browsers show in their network panel."""

from __future__ import annotations

import re
from functools import cache

from ..task import TaskMetrics

_NO_TOKEN = re.compile(r"[^!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def server_timing(upload: float | None, metrics: TaskMetrics, total: float) -> str:
    """Write the header.

    Args:
        upload: Seconds that the body took; None when there was none.
        metrics: What the steps took.
        total: Seconds from the first look at the request.
    """
    queue = sum(step.queue_time for step in metrics.steps)
    entries = [] if upload is None else [("upload", upload)]
    entries += [("queue", queue), *((step.step, step.handle_time) for step in metrics.steps), ("total", total)]
    return ", ".join([f"{_token(name)};dur={seconds * 1000:.3f}" for name, seconds in entries])


@cache
def _token(name: str) -> str:
    return _NO_TOKEN.sub("_", name)
