"""The same as `idle_ours` with the package ``aqueduct`` and its integration."""

from __future__ import annotations

from aqueduct import BaseTask, Flow, FlowStep
from aqueduct.integrations.fastapi import AppIntegrator
from fastapi import FastAPI

from .idle_aqueduct_handler import Nothing


def make_plain() -> FastAPI:
    app = FastAPI()
    flow = Flow(FlowStep(Nothing()))
    AppIntegrator(app).add_flow(flow)

    @app.get("/answer")
    async def answer() -> int:
        await flow.process(BaseTask())
        return 1

    return app
