"""The trace context of a task, in a worker whose user code makes spans with OpenTelemetry."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextvars import Token
from typing import Any


def makes_spans() -> bool:
    """Tell whether user code of this process has imported OpenTelemetry. This package does not."""
    return "opentelemetry.context" in sys.modules


def attach_trace(traces: Sequence[bytes]) -> Token[Any]:
    """Attach the context of one of several tasks to the present context; return what undoes it.

    Args:
        traces: What the API process has packed for each. The first one whose trace is recorded is attached: the spans
            of the other tasks link to it.
    """
    from opentelemetry import context, propagate, trace

    found = [propagate.extract(json.loads(packed)) for packed in traces]
    sampled = [item for item in found if trace.get_current_span(item).get_span_context().trace_flags.sampled]
    return context.attach((sampled or found)[0])
