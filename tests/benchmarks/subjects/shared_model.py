"""FastAPI with a model of 300 MB, for several processes of a server."""

from __future__ import annotations

import numpy as np
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, BaseTask, BaseTaskHandler, Flow, FlowStep

MODEL = 300_000_000


class Model(BaseTaskHandler):
    """Holds the model."""

    def on_start(self) -> None:
        """Load it."""
        self.weights = np.ones(MODEL, np.uint8)

    def handle(self, *tasks: BaseTask) -> None:
        """Do nothing."""


flow = Flow(FlowStep(Model()))
app = FastAPI(lifespan=Aqueduct(flow).lifespan)


@app.get("/answer")
async def answer() -> int:
    """Send a task through the flow."""
    await flow.process(BaseTask())
    return 1
