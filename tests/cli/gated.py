"""A flow whose handler waits at the gate of a task."""

from __future__ import annotations

from fastapi_aqueduct import Flow, FlowStep

from ..handlers import Each, enter_gate_if_any


def make_flow() -> Flow:
    """Make the flow once more, as in another process."""
    return Flow(FlowStep(Each(enter_gate_if_any), name="gate"), name="gated", mp_start_method="forkserver")


flow = make_flow()
