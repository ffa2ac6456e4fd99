"""What the integrations have in common: the time limit of the start, and the watch over flows."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable, Mapping, Sequence

from ..flow import Flow
from ..logger import log
from ..pipeline import PipelinePlace

FLOW_NAME = "flow"
"""The name of a flow in an application if it is given none."""

AQUEDUCT_FLOW_NAMES = "aqueduct_flow_names"
"""The name under which an application has the names of its flows."""

FLOWS_OBSERVER = "aqueduct_flows_observer"
"""The name under which an application has the asyncio task that watches its flows."""

FLOW_START_TIMEOUT_NAME = "FLOW_START_TIMEOUT"
"""The environment variable that limits the start of a flow."""

FLOW_START_TIMEOUT_DEFAULT = 300.0
"""Seconds in which the workers of a flow must be ready without that variable."""

_NO_LIMIT = 1e9


def get_start_timeout() -> float | None:
    """Return the seconds of FLOW_START_TIMEOUT; 300 if it is no number; None, for no limit, if it is not above 0."""
    try:
        timeout = float(os.environ.get(FLOW_START_TIMEOUT_NAME, FLOW_START_TIMEOUT_DEFAULT))
    except ValueError:
        timeout = FLOW_START_TIMEOUT_DEFAULT
    return timeout if timeout > 0 else None


def limit_of_start() -> float:
    """Return the same for `Flow.start`, to which None is the limit that the flow declares."""
    return get_start_timeout() or _NO_LIMIT


def place_pipelines(flows: Sequence[Flow], others: Sequence[Flow] = ()) -> None:
    """Have the pipelines of flows run where AQUEDUCT_PIPELINE says, when they are started next.

    Args:
        flows: The flows.
        others: Further flows of the application, which have a place already.

    Raises:
        ConfigurationError: It says no place, or the flows cannot run there.
    """
    place = PipelinePlace.read(None)
    place.check([*others, *flows])
    place.assign(flows)


async def stop_all(flows: Iterable[Flow]) -> None:
    """Stop flows side by side, so that they have one ``stop_timeout`` together.

    Args:
        flows: The flows.
    """
    await asyncio.gather(*(flow.stop() for flow in flows))


async def observe(flows: Mapping[str, Flow], check_interval: float) -> None:
    """Send SIGTERM to this process when a flow was stopped, or a step of one is not expected to recover.

    A dead worker is no reason: it is replaced.

    Args:
        flows: The flows, by their names in the application.
        check_interval: Seconds between two looks at them.
    """
    while True:
        for name, flow in flows.items():
            if reason := _failure(flow):
                log.error("flow %s of the application %s: the server is stopped", name, reason)
                os.kill(os.getpid(), signal.SIGTERM)
                return
        # No event: what a step recovers from, and when it is given up, depends on the time.
        await asyncio.sleep(check_interval)


def _failure(flow: Flow) -> str:
    if not flow.is_running:
        return "is not running"
    failed = [step.name for step in flow.statistics().steps if step.is_given_up]
    return f"has no worker for {', '.join(failed)}, and none is expected" if failed else ""
