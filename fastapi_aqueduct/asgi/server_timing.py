"""The header ``Server-Timing``: the times of a request, which browsers show in their network panel."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from ..reports import StepMetrics

_NO_TOKEN = re.compile(r"[^!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def server_timing(upload: float | None, steps: Iterable[StepMetrics], total: float) -> bytes:
    """Return the value of the header.

    Args:
        upload: Seconds that the body took; None if there was none.
        steps: The times of the steps.
        total: Seconds since the request was first seen.
    """
    first = b"" if upload is None else b"upload;dur=%.3f, " % (upload * 1000)
    queue, last = 0.0, b""
    for step in steps:
        queue += step.queue_time
        last += b", %b;dur=%.3f" % (_token(step.step), step.handle_time * 1000)
    return b"%bqueue;dur=%.3f%b, total;dur=%.3f" % (first, queue * 1000, last, total * 1000)


def stream_timing(upload: float | None, first: float) -> bytes:
    """Return the value of the header for a stream, which has it before the steps have ended.

    Args:
        upload: Seconds that the body took; None if there was none.
        first: Seconds from the begin of the stream until its first item.
    """
    return (b"" if upload is None else b"upload;dur=%.3f, " % (upload * 1000)) + b"first;dur=%.3f" % (first * 1000)


@cache
def _token(name: str) -> bytes:
    return _NO_TOKEN.sub("_", name).encode("ascii")
