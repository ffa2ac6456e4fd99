"""An application whose flows can be brought into each state that the status page shows."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from fastapi_aqueduct import Aqueduct, Autoscale, Flow, FlowStep, flow_endpoint
from fastapi_aqueduct.engine.timing import DEFAULT_TIMING

from ..handlers import Gate
from .handlers import Caption, Decode, Faces, Fragile, Nap, Picture, directory

QUICK = replace(DEFAULT_TIMING, first_wait=0.01, longest_wait=0.05, max_deaths=2, check_interval=0.2, hang_after=0.5)

captions = Flow(
    FlowStep(Decode(), name="decode", nprocs=2),
    FlowStep(Faces(), name="faces"),
    FlowStep(Caption(), name="caption", nprocs=2, batch_size=8, batch_timeout=0.005, max_retries=0),
    name="captions",
    queue_size=40,
    memory_limit=64 << 20,
    timing=QUICK,
    mp_start_method="forkserver",
    stop_timeout=1.0,
)
others = Flow(
    FlowStep(Fragile(), name="fragile"),
    FlowStep(Nap(), name="nap", nprocs=Autoscale(0, 2, idle_after=3)),
    name=os.environ.get("STATUS_NAME", "<script>others"),
    memory_limit=64 << 20,
    timing=QUICK,
    mp_start_method="forkserver",
)
branches = Flow(
    FlowStep(Faces(), name="light"),
    [FlowStep(Decode(), name="find"), (FlowStep(Faces(), name="crop"), FlowStep(Decode(), name="read"))],
    FlowStep(Caption(), name="join"),
    name="branches",
    memory_limit=64 << 20,
    timing=QUICK,
    mp_start_method="forkserver",
)
aqueduct = Aqueduct(
    captions,
    others,
    branches,
    drain_delay=3.0,
    replacements={captions.steps["caption"]: {"large": Caption("large"), "missing": Caption("missing")}},
)
app = FastAPI(lifespan=aqueduct.lifespan)


def check_operator(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    if (credentials.username, credentials.password) != ("operator", "secret"):
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})


app.include_router(aqueduct.admin, prefix="/ops", dependencies=[Depends(check_operator)])
trials = AsyncExitStack()


@app.exception_handler(ValueError)
async def refuse(request: Request, error: ValueError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.get("/caption")
@flow_endpoint(captions, timeout_sec=30)
async def caption(task: Picture) -> str:
    return task.caption


@app.get("/branches")
@flow_endpoint(branches, timeout_sec=30)
async def branch(task: Picture) -> str:
    return task.caption


@app.get("/impatient")
async def impatient(gate: str) -> None:
    """Send a picture, and leave while it is held."""
    call = asyncio.create_task(captions.process(Picture(fate="hold", gate=gate), 30))
    while not Gate(directory(), gate).is_entered():
        await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait([call])


@app.get("/nap")
@flow_endpoint(others, timeout_sec=30)
async def nap(task: Picture) -> str:
    return task.caption


@app.post("/load")
async def load(count: int = 400, size: int = 0) -> int:
    """Send pictures, some of which fail."""
    fates = ["fail" if number % 20 == 7 else "" for number in range(count)]
    tasks = [captions.process(Picture("no cat", fate, image=bytes(size)), 30) for fate in fates]
    await asyncio.gather(*tasks, return_exceptions=True)
    return count


@app.post("/canary")
async def begin_canary(share: float = 0.3) -> None:
    await trials.enter_async_context(captions.steps["caption"].canary(Caption("large"), share=share))


@app.post("/shadow")
async def begin_shadow() -> None:
    await trials.enter_async_context(captions.steps["faces"].shadow(Faces()))


@app.delete("/trials")
async def end_trials() -> None:
    await trials.aclose()
