"""Names of steps, as clients and operators see them."""

from __future__ import annotations

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest

from fastapi_aqueduct import Aqueduct, FlowStep, flow_endpoint
from fastapi_aqueduct.metrics.prometheus import AqueductCollector
from fastapi_aqueduct.testing import client

from ..support import forked
from .handlers import Adder, Sum


async def test_probes_metrics_and_server_timing_have_the_given_names() -> None:
    flow = forked(FlowStep(Adder(), name="add-up.v2"), Adder(), name="both")
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/sum")
    @flow_endpoint(flow, server_timing=True)
    async def add(task: Sum) -> int:
        return task.result

    registry = CollectorRegistry()
    registry.register(AqueductCollector([flow]))
    async with client(app) as http:
        assert [step["step"] for step in (await http.get("/ready")).json()["steps"]] == ["add-up.v2", "step2_Adder"]
        timing = (await http.get("/sum?a=1")).headers["server-timing"]
        assert [entry.partition(";")[0] for entry in timing.split(", ")] == [
            "queue",
            "add-up.v2",
            "step2_Adder",
            "total",
        ]
        text = generate_latest(registry).decode()
        assert 'aqueduct_queue_length{flow="both",step="add-up.v2"} 0.0' in text
        assert 'aqueduct_queue_length{flow="both",step="step2_Adder"} 0.0' in text
