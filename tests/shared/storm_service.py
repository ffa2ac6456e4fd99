"""The application of the storm over uploads: it answers with the checksum that a worker computes."""

from __future__ import annotations

import os
import zlib
from typing import Any

from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, BaseTask, BaseTaskHandler, Flow, Upload, flow_endpoint


class Parcel(BaseTask):
    """An upload and its checksum."""

    def __init__(self, content: Upload) -> None:
        self.content: Upload | None = content
        self.checksum = 0


class Check(BaseTaskHandler):
    """Computes the checksum."""

    def handle(self, *tasks: Parcel) -> None:
        """Work on one task."""
        for task in tasks:
            task.checksum = zlib.crc32(task.content or b"")
            task.content = None


flow = Flow(Check(), name="parcels")
app = FastAPI(lifespan=Aqueduct(flow).lifespan)


@app.post("/parcels")
@flow_endpoint(flow)
async def post(task: Parcel) -> int:
    return task.checksum


@app.get("/held")
async def held() -> dict[str, Any]:
    """Tell what the flow holds, and which process says it."""
    statistics = flow.statistics()
    return {
        "blocks": statistics.arena.blocks,
        "receiving": statistics.arena.receiving,
        "in_flight": statistics.in_flight,
        "server": os.getpid(),
    }
