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
    queue, steps = 0.0, ""
    for name, queue_time, handle_time, _ in metrics.steps:
        queue += queue_time
        steps += f", {_token(name)};dur={handle_time * 1000:.3f}"
    first = "" if upload is None else f"upload;dur={upload * 1000:.3f}, "
    return f"{first}queue;dur={queue * 1000:.3f}{steps}, total;dur={total * 1000:.3f}"


@cache
def _token(name: str) -> str:
    return _NO_TOKEN.sub("_", name)
