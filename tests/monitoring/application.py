"""A light service with all that is monitored: uploads, steps with batches, streams, refusals, jobs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import EventSourceResponse, JSONResponse
from prometheus_fastapi_instrumentator import Instrumentator

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, FlowStream, Job, Jobs, JobStatus, flow_endpoint

from .handlers import Album, Answer, Label, Photo, Print, Question, Shrink

photos = Flow(
    Shrink(),
    FlowStep(Label(), name="label", nprocs=2, batch_size=8, batch_timeout=0.005, max_retries=0),
    queue_size=16,
    memory_limit=64 << 20,
    name="photos",
)
answers = Flow(FlowStep(Answer(), name="answer"), name="answers")
albums = Flow(FlowStep(Print(), name="print"), name="albums")
jobs = Jobs(os.environ["MONITORED_JOBS"])
app = FastAPI(lifespan=Aqueduct(photos, answers, albums, jobs=jobs).lifespan)
app.include_router(jobs.router, prefix="/jobs")
Instrumentator().instrument(app).expose(app)


@app.exception_handler(ValueError)
async def refuse(request: Request, error: ValueError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.post("/photos")
@flow_endpoint(photos, timeout_sec=0.5)
async def label(task: Photo) -> str:
    return task.label


@app.get("/answers", response_class=EventSourceResponse)
@flow_endpoint(answers)
async def answer(task: Question, words: FlowStream[str]) -> AsyncIterator[str]:
    async for word in words:
        yield word


@app.post("/albums", status_code=202)
@jobs.endpoint(albums)
async def print_album(job: Job[Album]) -> JobStatus:
    return job.status
