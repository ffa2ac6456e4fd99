"""A flow whose handler waits at the gate of a task."""

from __future__ import annotations

from fastapi_aqueduct import Flow, FlowStep

from ..handlers import Each, enter_gate_if_any

flow = Flow(FlowStep(Each(enter_gate_if_any), name="gate"), name="gated", mp_start_method="forkserver")
