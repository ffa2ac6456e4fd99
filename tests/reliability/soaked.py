"""The application of the soak: the same upload to each kind of endpoint, in little shared memory."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.routing import Route

from fastapi_aqueduct import Aqueduct, Flow, FlowDep, FlowStep, FlowTask, UploadLimits, flow_endpoint

from ..asgi.support import taken
from ..support import engine_of
from .mishaps import Meet, Parcel

MEMORY_LIMIT = 16 << 20

LARGEST = 4 << 20
"""Bytes that an upload may have."""

KINDS = ("decorated", "dependent", "plain")
"""Paths of the endpoints, which do the same."""

flow = Flow(FlowStep(Meet(), nprocs=3), memory_limit=MEMORY_LIMIT)
limits = UploadLimits(idle_timeout=0.5, max_body_size=LARGEST)
app = FastAPI(lifespan=Aqueduct(flow, upload_limits=limits).lifespan)


@app.post("/decorated")
@flow_endpoint(flow, timeout_sec=30)
async def decorated(task: Parcel) -> int:
    return task.total


@app.post("/dependent")
async def dependent(task: Annotated[Parcel, FlowTask()], flow: FlowDep) -> int:
    await flow.process(task, 30)
    return task.total


@flow_endpoint(flow, timeout_sec=30)
async def plain(task: Parcel) -> JSONResponse:
    return JSONResponse(task.total)


app.router.routes.append(Route("/plain", plain, methods=["POST"]))


@app.post("/hasty")
@flow_endpoint(flow, timeout_sec=0.1)
async def hasty(task: Parcel) -> int:
    return task.total


@app.get("/figures")
async def figures() -> dict[str, int]:
    """Tell what the flow holds, as it is: no garbage is collected."""
    statistics = flow.statistics()
    return {
        "blocks": statistics.arena.blocks,
        "receiving": statistics.arena.receiving,
        "arriving": len(engine_of(flow).memory.arrivals),
        "taken": taken(flow),
        "in_flight": statistics.in_flight,
        "missing": statistics.steps[0].nprocs - statistics.steps[0].ready_workers,
    }


@app.get("/workers")
async def workers() -> list[int]:
    """List the workers that are ready."""
    return [worker.pid for worker in flow.statistics().steps[0].workers if worker.pid and worker.state == "ready"]
